"""`python -m codex_actors` is the command `codex-actors`."""

from codex_actors.cli import main

if __name__ == "__main__":
    main()
