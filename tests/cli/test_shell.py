from __future__ import annotations

from pathlib import Path
from typing import Any

RUNNING = ("run", "--provider", "_providers:running", "--shell")


def test_command_runs_and_is_one_line(terminal: Any, tmp_path: Path) -> None:
    child = terminal(*RUNNING, "touch made && echo done")
    child.expect(r"✓ \$ touch made && echo done → exit 0, \d+\.\d s")
    child.expect_exact("done")
    child.expect("to go on: codex-actors resume")
    assert (tmp_path / "made").exists()


def test_untrusted_command_is_asked_about(terminal: Any, tmp_path: Path) -> None:
    child = terminal(*RUNNING, "--approval", "untrusted", "touch made")
    child.expect("May this run in .*touch made")
    child.expect_exact("[q] no, and stop: ")
    assert not (tmp_path / "made").exists()
    child.sendline("y")
    child.expect(r"✓ \$ touch made → exit 0")
    assert (tmp_path / "made").exists()


def test_interrupt_ends_a_command(terminal: Any) -> None:
    child = terminal(*RUNNING, "echo begun; sleep 600")
    child.expect(r"\$ echo begun; sleep 600")
    child.sendintr()
    child.expect("interrupted; to go on: codex-actors resume")
    child.wait()
    assert child.exitstatus == 130


def test_without_terminal_only_harmless_commands_run(command: Any, tmp_path: Path) -> None:
    refused = command(*RUNNING, "touch made")
    assert refused.returncode == 0
    assert "denied, because nobody can be asked: touch made" in refused.stderr
    assert not (tmp_path / "made").exists()
    assert str(tmp_path) in command(*RUNNING, "pwd").stdout


def test_never_runs_what_the_model_says(command: Any, tmp_path: Path) -> None:
    assert command(*RUNNING, "--approval", "never", "touch made").returncode == 0
    assert (tmp_path / "made").exists()


def test_commands_do_not_see_the_key(command: Any) -> None:
    script = 'echo "<$PLAIN_NAME>"'
    ran = command(*RUNNING, "--approval", "never", "--env-key", "PLAIN_NAME", script, PLAIN_NAME="sk-some-key")
    assert "<>" in ran.stdout
    assert "sk-some-key" not in ran.stdout + ran.stderr


def test_shell_is_off_unless_asked_for(command: Any) -> None:
    ran = command("run", "--provider", "_providers:running", "touch made")
    assert "shell_command" in ran.stdout
