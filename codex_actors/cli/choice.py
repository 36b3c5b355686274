"""From options to what the runtime takes: who answers, and the settings of the thread."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from codex_actors import Config, ModelProvider, ScriptedModel
from codex_actors.cli.options import DEFAULT_ENV_KEY, Approval, ModelOptions, Options, Refused
from codex_actors.config import ToolLike
from codex_actors.services.auth import AuthManager
from codex_actors.services.project_docs import read_user_instructions
from codex_actors.services.skills import SkillsManager
from codex_actors.tools.environment import SECRET_NAMES, ShellEnvironment
from codex_actors.tools.files import file_tools
from codex_actors.tools.shell import shell_tool

EMBEDDED = "scripted"

NO_MODEL = (
    f"no model to ask: set {DEFAULT_ENV_KEY}, or give --base-url URL of a server (with --env-key NAME for its key); "
    "without either, --embedded echoes"
)

_INSTRUCTIONS = """You are an agent that works at a user's terminal, in the folder of its environment context. Do what the
user asks, with the tools that you have, and look before you claim. Your last message is the answer: give it in plain text that
reads well in a terminal, and say what you could not do."""


NO_NAME = "--model NAME: which one? `codex-actors models`, with the same options, lists those that the server tells of"


def model_of(options: ModelOptions, *, asks: bool = False) -> ModelProvider:
    """Who answers; a server that `asks` nothing needs no name of a model. Loads the HTTP client only where one is needed.

    Raises:
        Refused: nobody would; the text says what to set.
    """
    if options.provider is not None:
        return _own(options.provider)
    if options.embedded or options.model == EMBEDDED:
        return ScriptedModel()
    variable = options.env_key or DEFAULT_ENV_KEY
    has_key = bool(os.environ.get(variable, "").strip())
    if options.env_key is not None and not has_key:
        raise Refused(f"--env-key: the environment variable {variable} is not set or blank; put the key into it")
    # A key that is stored for OpenAI goes to no other server.
    is_elsewhere = bool(options.base_url or os.environ.get("OPENAI_BASE_URL", "").strip())
    auth = None if is_elsewhere or has_key else AuthManager(options.home_dir)
    if not has_key and not is_elsewhere and (auth is None or auth.auth() is None):
        raise Refused(NO_MODEL)
    if asks and options.model is None:
        raise Refused(NO_NAME)
    name = "openai" if options.base_url is None else "responses"
    info = _late("provider_info", "ModelProviderInfo")(
        name=name, base_url=options.base_url, env_key=variable if has_key else None
    )
    model: ModelProvider = _late("responses", "ResponsesModel")(info, auth_manager=auth)
    return model


def _late(module: str, name: str) -> Any:
    """From a module of the package that loads a library of an extra: `ls` and `--help` do without."""
    try:
        return getattr(importlib.import_module(f"codex_actors.model.{module}"), name)
    except ImportError as error:
        raise Refused(f"a model on a server needs the extra http: pip install 'codex-actors[http]' ({error})") from None


def _own(name: str) -> ModelProvider:
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise Refused(f"--provider {name}: {error}") from None
    model: ModelProvider = found if isinstance(found, ModelProvider) and not isinstance(found, type) else found()
    return model


def config_of(options: Options) -> Config:
    """The thread's settings.

    Raises:
        Refused: a folder is not there.
    """
    cwd = _folder("--cwd", options.cwd or Path.cwd())
    return Config(
        model=options.model,
        cwd=cwd,
        user_instructions=_user_instructions(options, cwd),
        base_instructions=_INSTRUCTIONS,
        tools=_tools(options),
        approval_policy=_approval(options).value,
    )


def _user_instructions(options: Options, cwd: Path) -> str | None:
    """The user's and the project's AGENTS.md; skills only for a model that can read and follow their files."""
    skills = SkillsManager(options.home_dir).skills_for(cwd).skills if options.shell else ()
    return read_user_instructions(cwd, options.home_dir, skills=skills)


def can_ask() -> bool:
    """Whether somebody can be asked: where the question is read and where it is answered, there is a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _approval(options: Options) -> Approval:
    if options.approval is not None:
        return options.approval
    if not options.shell:
        return Approval.NEVER
    return Approval.ON_REQUEST if can_ask() else Approval.UNTRUSTED


def _tools(options: Options) -> tuple[ToolLike, ...]:
    tools: list[ToolLike] = []
    if options.files is not None:
        tools += file_tools(_folder("--files", options.files))
    if options.shell:
        # Whatever its name looks like: this variable holds a key.
        hidden = (*SECRET_NAMES, options.env_key or DEFAULT_ENV_KEY)
        tools.append(shell_tool(environment=ShellEnvironment(exclude=hidden)))
    return tuple(tools)


def _folder(option: str, path: Path) -> Path:
    folder = path.expanduser().absolute()
    if not folder.is_dir():
        raise Refused(f"{option} {path}: there is no such folder")
    return folder
