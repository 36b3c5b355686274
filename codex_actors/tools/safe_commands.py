"""What can be told of a shell script without running it: that it only reads, or that it looks like a regret.

`is_harmless` must never be wrong with a yes: what it does not know is not harmless. `is_dangerous` finds accidents, it is no
guard: nothing that wants to get past it is stopped.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+)
    | (?P<operator>&&|\|\||;|\|)
    | (?P<word>(?:[\w./,:=@%+^*?-]|'[^'\x00-\x1f]*'|"[^"$`\\\x00-\x1f]*")+)""",
    re.VERBOSE,
)
_PART = re.compile(r"""'([^']*)'|"([^"]*)"|([^'"]+)""")


@dataclass(frozen=True, slots=True)
class PlainCommand:
    """A command of literal words; `has_glob` says that a shell may make more than one of some, none of them an option."""

    words: tuple[str, ...]
    has_glob: bool


def plain_commands(script: str) -> tuple[PlainCommand, ...] | None:
    """The commands of a script that is nothing but plain ones joined by `&&`, `||`, `;` and `|`; None for any other.

    Redirections, expansions, substitutions, escapes, subshells, comments, lines and background jobs are not plain.
    """
    text, at = script.strip(" \t\n"), 0
    commands: list[list[tuple[str, bool]]] = [[]]
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return None
        at = token.end()
        if token["operator"]:
            commands.append([])
        elif token["word"]:
            word, has_glob = _read(token["word"])
            # What a pattern expands to begins as the pattern does; one that begins with a name makes no option.
            if has_glob and (not word or word[0] in "-*?"):
                return None
            commands[-1].append((word, has_glob))
    if not all(commands):
        return None
    return tuple(PlainCommand(tuple(word for word, _ in words), any(glob for _, glob in words)) for words in commands)


def _read(raw: str) -> tuple[str, bool]:
    parts = [part.groups() for part in _PART.finditer(raw)]
    word = "".join(single or double or bare or "" for single, double, bare in parts)
    return word, any(bare and ("*" in bare or "?" in bare) for _, _, bare in parts)


def is_harmless(script: str, *, in_own_folder: bool = True) -> bool:
    """Whether all that the script can do is read: any file of the user's, with the programs that PATH finds.

    Args:
        in_own_folder: It begins in the thread's folder. In any other, and behind a `cd`, git is not harmless: the settings
            of a repository name programs that git runs.

    Source: `codex-rs/core/src/command_safety/is_safe_command.rs`. Stricter: a program is named without a path, abbreviated
    and clustered options count, options of git must be known, `uniq` has no second file.
    """
    commands = plain_commands(script)
    if commands is None or (not in_own_folder and any(command.words[0] == "git" for command in commands)):
        return False
    moved = False
    for command in commands:
        name, arguments = command.words[0], command.words[1:]
        if name in _READERS:
            moved = moved or name == "cd"
        elif name not in _GUARDED or command.has_glob or (moved and name == "git") or not _GUARDED[name](arguments):
            return False
    return True


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# No option or argument of theirs writes a file, changes anything, or runs a program of the caller's choice.
_READERS = _names(
    "basename cat cd cmp cut df dirname du echo expr false grep head id ls nl paste pwd readlink realpath rev seq stat "
    "tac tail tr true uname wc which whoami"
)


def _find(arguments: Sequence[str]) -> bool:
    return not any(each.startswith(("-exec", "-ok", "-delete", "-fls", "-fprint")) for each in arguments)


def _rg(arguments: Sequence[str]) -> bool:
    # -z in a cluster of short options, too: it runs other programs.
    return not any(
        each.startswith(("--pre", "--hostname-bin", "--search-zip")) or re.match(r"-[^-].*z|-z", each)
        for each in arguments
    )


def _sed(arguments: Sequence[str]) -> bool:
    return (
        len(arguments) >= 2
        and arguments[0] == "-n"
        and re.fullmatch(r"([0-9]+|\$)(,([0-9]+|\$))?p", arguments[1]) is not None
        and not any(each.startswith("-") for each in arguments[2:])
    )


def _sort(arguments: Sequence[str]) -> bool:
    option = r"-[bdfghiMnrsuVz]+|-k[0-9][0-9.,bdfghiMnrV]*|-t[^o]?"
    return all(not each.startswith("-") or re.fullmatch(option, each) for each in arguments)


def _uniq(arguments: Sequence[str]) -> bool:
    files = [each for each in arguments if not re.fullmatch(r"-[cdiu]+", each)]
    return len(files) <= 1 and not any(each.startswith(("-", "+")) for each in files)


def _printf(arguments: Sequence[str]) -> bool:
    return bool(arguments) and not arguments[0].startswith("-")  # -v sets a variable, which may be PATH


_GIT_OPTIONS = _names(
    "-a -b -n -p -r -s -sb -u -v -w -z --abbrev-commit --abbrev-ref --all --author --branch --branches --cached --color "
    "--date --date-order --decorate --diff-filter --first-parent --follow --format --full-history --graph --grep --max-count "
    "--merges --name-only --name-status --no-color --no-decorate --no-ext-diff --no-merges --no-patch "
    "--no-textconv --numstat --oneline --others --patch --porcelain --pretty --reverse --short --show-current "
    "--show-toplevel --shortstat --since --staged --stat --summary --tags --topo-order --unified --until "
    "--untracked-files --verify --word-diff"
)
_GIT_BRANCH_OPTIONS = _names("-a -l -r -v -vv --all --format --list --remotes --show-current --verbose")


def _git(arguments: Sequence[str]) -> bool:
    if not arguments or arguments[0] not in ("branch", "diff", "log", "ls-files", "rev-parse", "show", "status"):
        return False  # options before the subcommand, too: they choose other settings or another repository
    options = [each for each in arguments[1:] if each.startswith("-") and each != "--"]
    if arguments[0] == "branch":
        return len(options) == len(arguments) - 1 and all(each.split("=")[0] in _GIT_BRANCH_OPTIONS for each in options)
    return all(each.split("=")[0] in _GIT_OPTIONS or re.fullmatch(r"-[nU]?[0-9]+", each) for each in options)


_GUARDED: dict[str, Callable[[Sequence[str]], bool]] = {
    "find": _find,
    "git": _git,
    "printf": _printf,
    "rg": _rg,
    "sed": _sed,
    "sort": _sort,
    "uniq": _uniq,
}


def is_dangerous(script: str) -> bool:
    """Whether the script looks like one that destroys what cannot be brought back, or acts as another user.

    Source: `codex-rs/core/src/command_safety/is_dangerous_command.rs`, `rm -f` and `git reset`; the rest is ours.
    """
    return any(_is_regret(words) or any(_holds_one(word, script) for word in words) for words in _segments(script))


def _segments(script: str) -> Iterator[list[str]]:
    """Its commands as words, as well as they can be told."""
    lexer = shlex.shlex(script.replace("\n", ";"), posix=True, punctuation_chars=True)
    lexer.commenters = ""
    lexer.whitespace_split = True
    try:
        tokens = list(lexer)
    except ValueError:  # a quote without its end: a here-document, or nonsense
        tokens = re.split(r"([;&|()]+|\s+)", script)
    words: list[str] = []
    for token in tokens:
        if token and not token.strip(";&|()"):
            yield words
            words = []
        elif token.strip():
            words.append(token)
    yield words


def _holds_one(word: str, script: str) -> bool:
    """Whether the word is a script of its own, as in `bash -c '…'`, and a dangerous one."""
    return len(word) < len(script) and bool(re.search(r"[\s;&|(`]", word)) and is_dangerous(word)


_AS_ANOTHER_OR_LOST = _names("dd doas fdisk halt mkfs pkexec poweroff reboot shred shutdown su sudo wipefs")
_BEFORE_A_COMMAND = re.compile(
    r"[{!]|\w+=.*|-.*|[0-9]+[smhd]?|command|do|else|env|eval|exec|if|nice|nohup|then|time|timeout|while|xargs"
)


def _is_regret(words: Sequence[str]) -> bool:
    is_first = True
    for at, word in enumerate(words):
        name, behind = PurePosixPath(word.strip("`$")).name, words[at + 1 :]
        if is_first and (name in _AS_ANOTHER_OR_LOST or name.startswith("mkfs.")):
            return True
        is_first = is_first and _BEFORE_A_COMMAND.fullmatch(word) is not None
        if name == "rm" and any(re.match(r"-\w*[rRf]|--(force|recursive)", each) for each in behind):
            return True
        if name == "find" and "-delete" in behind:
            return True
        if name == "git" and _is_git_regret(behind):
            return True
    return False


def _is_git_regret(arguments: Sequence[str]) -> bool:
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        rest = rest[2:] if rest[0] in ("-C", "-c") else rest[1:]
    if not rest:
        return False
    if rest[0] == "push":
        return any(re.match(r"-\w*f|--force|--delete|--mirror|\+", each) for each in rest[1:])
    return rest[0] in ("clean", "reset", "rm")
