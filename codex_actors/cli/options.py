"""What every command that asks a model may be told, and how one declaration of it serves several commands."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

DEFAULT_ENV_KEY = "OPENAI_API_KEY"


class Refused(Exception):
    """The command line cannot be meant; the text is the one line that is said of it. The exit status is 2."""


class Approval(StrEnum):
    """The words of `--approval`: Codex's."""

    UNTRUSTED = "untrusted"
    ON_REQUEST = "on-request"
    NEVER = "never"


def default_home() -> Path:
    """Codex's own: `$CODEX_HOME`, else `~/.codex`."""
    return Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex")


HomeOption = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="Where threads are kept [$CODEX_HOME, else ~/.codex].")
]
"""Of the commands that ask no model."""

LinesOption = Annotated[bool, typer.Option("--json", help="Write one JSON object per line.")]
"""Of the commands that list something."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Who answers."""

    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="The model; `scripted` is the embedded one.")
    ] = None
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url", metavar="URL", help="A server of the Responses API [$OPENAI_BASE_URL, else OpenAI]."
        ),
    ] = None
    env_key: Annotated[
        str | None,
        typer.Option("--env-key", metavar="NAME", help=f"The variable that holds the key [{DEFAULT_ENV_KEY}]."),
    ] = None
    embedded: Annotated[bool, typer.Option("--embedded", help="Let the embedded model echo: no network, no key.")] = (
        False
    )
    provider: Annotated[
        str | None,
        typer.Option("--provider", metavar="MODULE:NAME", help="A ModelProvider of your own, or what makes one."),
    ] = None
    home: HomeOption = None

    @property
    def home_dir(self) -> Path:
        """Absolute."""
        return (self.home or default_home()).expanduser().absolute()


@dataclass(frozen=True, slots=True)
class Options(ModelOptions):
    """What a thread is started with."""

    cwd: Annotated[Path | None, typer.Option("--cwd", metavar="DIR", help="The folder it works in [this one].")] = None
    as_json: Annotated[bool, typer.Option("--json", help="Write one event per line, as Codex's JSON.")] = False
    shell: Annotated[bool, typer.Option("--shell/--no-shell", help="Let the model run commands [no].")] = False
    files: Annotated[
        Path | None, typer.Option("--files", metavar="DIR", help="Let the model list, read and search this folder.")
    ] = None
    approval: Annotated[
        Approval | None,
        typer.Option(
            "--approval",
            help="When commands are asked about [with --shell: on-request on a terminal, else untrusted, "
            "where what would be asked about is denied].",
        ),
    ] = None


def taking(kind: type[ModelOptions]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of `kind` as options; they come as its first argument, made one."""

    def declare(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(kind, include_extras=True)
        own = get_type_hints(command, include_extras=True)
        _, *others = inspect.signature(command).parameters.values()
        added = [
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name]
            )
            for each in fields(kind)
        ]
        kept = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=own.get(each.name, each.annotation))
            for each in others
        ]

        @functools.wraps(command)
        def call(**given: Any) -> None:
            command(kind(**{each.name: given.pop(each.name) for each in fields(kind)}), **given)

        # Typer reads both, and nothing else.
        vars(call)["__signature__"] = inspect.Signature([*kept, *added])
        call.__annotations__ = {each.name: each.annotation for each in [*kept, *added]}
        return call

    return declare
