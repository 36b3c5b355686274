"""Which of the host's environment variables a child process gets: none that looks like a secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

from codex_actors.errors import InvalidRequest

Inherit = Literal["all", "core", "none"]
"""What of the host's environment the rules begin with: everything, what nearly every program needs, nothing."""

SECRET_NAMES = (
    "*KEY*",
    "*SECRET*",
    "*TOKEN*",
    "*PASSWORD*",
    "*PASSWD*",
    "*PASSPHRASE*",
    "*CREDENTIAL*",
    "*COOKIE*",
    "*_PWD",
    "*_PAT",
    "*_AUTH",
)
"""Names of variables that a child does not get. The first three are Codex's."""

_CORE = frozenset(("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TEMP", "TMP", "TMPDIR", "USER", "USERNAME"))

# Each lets the environment decide what a shell runs, or what a plain command means. Where SSH_CLIENT is set, Debian's bash
# reads ~/.bashrc even for `-c`, which may set again what was left out.
_FOR_SHELLS = (
    "BASH_ENV",
    "BASH_FUNC_*",
    "BASHOPTS",
    "CDPATH",
    "ENV",
    "PROMPT_COMMAND",
    "SHELLOPTS",
    "SSH2_CLIENT",
    "SSH_CLIENT",
)

_SECRET_VALUES = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s@]+@|-----BEGIN [A-Z ]*PRIVATE KEY")

_SHORT_CHARS = 8
"""A shorter value (`true`, a level) says nothing by being equal to a secret one."""


@dataclass(frozen=True, slots=True)
class ShellEnvironment:
    """Rules for the environment of a child process. Patterns are of `fnmatch`, in any case.

    What is inherited loses the names in `exclude`, the values that hold a URL with a user or a private key, and those
    that equal the value of an excluded name; `set` is added as it is; of a non-empty `include_only`, only what fits it
    stays. Variables by which the host's shell would run code of its own (`BASH_ENV` and the like) are never inherited.

    Source: `codex-rs/core/src/exec_env.rs`. Codex's default leaves secrets in; it knows no rule for values.
    """

    inherit: Inherit = "all"
    exclude: tuple[str, ...] = SECRET_NAMES
    include_only: tuple[str, ...] = ()
    set: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.inherit not in get_args(Inherit):
            raise InvalidRequest(
                f"ShellEnvironment.inherit: {self.inherit!r} is not one of {', '.join(get_args(Inherit))}"
            )
        for name in ("exclude", "include_only"):
            patterns = getattr(self, name)
            if not isinstance(patterns, tuple) or not all(isinstance(pattern, str) for pattern in patterns):
                raise InvalidRequest(f"ShellEnvironment.{name}: {patterns!r} is not a tuple of name patterns")
        if not isinstance(self.set, Mapping):
            raise InvalidRequest(f"ShellEnvironment.set: {type(self.set).__name__} is not a mapping of names to texts")
        for name, value in self.set.items():
            if not isinstance(name, str) or not name or "=" in name or "\0" in name:
                raise InvalidRequest(f"ShellEnvironment.set: {name!r} is not the name of a variable")
            if not isinstance(value, str) or "\0" in value:  # the value may be a secret: it is not shown
                raise InvalidRequest(f"ShellEnvironment.set: the value of {name!r} is not text without NUL")

    def of(self, host: Mapping[str, str]) -> dict[str, str]:
        """The child's environment, of the host's."""
        start = {
            name: value
            for name, value in host.items()
            if self.inherit == "all" or (self.inherit == "core" and name in _CORE)
        }
        secrets = {value for name, value in host.items() if _fits(name, self.exclude) and len(value) >= _SHORT_CHARS}
        kept = {
            name: value
            for name, value in start.items()
            if not _fits(name, (*self.exclude, *_FOR_SHELLS))
            and value not in secrets
            and not _SECRET_VALUES.search(value)
        }
        kept.update(self.set)
        if self.include_only:
            kept = {name: value for name, value in kept.items() if _fits(name, self.include_only)}
        return kept


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name.upper(), pattern.upper()) for pattern in patterns)
