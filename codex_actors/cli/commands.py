"""The commands. Exit status: 0 completed, 1 failed, 2 not to be understood, 130 interrupted, 141 nobody reads us."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from codex_actors import (
    CodexError,
    Config,
    NewThread,
    Reply,
    ScriptedModel,
    ThreadManager,
    TurnResult,
    __version__,
)
from codex_actors.cli.choice import can_ask, config_of, model_of
from codex_actors.cli.drive import INTERRUPTED, Interrupts, drive, run_in_foreground
from codex_actors.cli.notes import harmless, notes_for_stderr
from codex_actors.cli.options import (
    LinesOption,
    ModelOptions,
    Options,
    Refused,
    taking,
)
from codex_actors.cli.screens import LinesScreen, Screen, TextScreen
from codex_actors.cli.tables import show_table
from codex_actors.cli.where import path_to_go_on
from codex_actors.protocol.events import AgentMessage, Event, UserMessage

STATUS = {"completed": 0, "errored": 1, "interrupted": INTERRUPTED}

Begin = Callable[[ThreadManager, Config], Reply[NewThread]]

app = typer.Typer(
    name="codex-actors",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: it is read in pipes too, and Rich's takes as long to load as all the rest.
    rich_markup_mode=None,
    # Tracebacks with local variables would show keys.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What to ask; - reads it from standard input.")]
FurtherPrompt = Annotated[
    str | None,
    typer.Argument(metavar="[PROMPT]", help="What to ask; - reads it from standard input.", show_default=False),
]
Thread = Annotated[
    str, typer.Argument(metavar="THREAD|PATH", help="An id, the begin of one, a name, or a rollout file.")
]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Say which version this is.")] = False) -> None:
    """Agent threads from a shell: run, resume and fork them.

    Standard output carries the answer; everything else goes to standard error.

    \b
    Example:
      codex-actors run --embedded "Hello."
    """
    if version:
        typer.echo(f"codex-actors {__version__}")
        raise typer.Exit


@app.command()
@taking(Options)
def run(options: Options, prompt: Prompt) -> None:
    """Start a thread, and show its turn.

    Ctrl-C interrupts the turn, and the thread can be resumed; a second one leaves at once.

    \b
    Examples:
      codex-actors run "What is in this folder?" --files .
      git diff | codex-actors run - --json
    """
    leave_with(lambda: _turn(options, lambda manager, config: manager.start_thread(config), prompt))


@app.command()
@taking(Options)
def resume(options: Options, thread: Thread, prompt: FurtherPrompt = None) -> None:
    """Go on with a thread.

    Without a prompt, show what was said in it.

    \b
    Example:
      codex-actors resume 019ac5a1-6a5e-7d02-8f4e-6d1a3f0c2b11 "And the tests?"
    """

    def begin(manager: ThreadManager, config: Config) -> Reply[NewThread]:
        return manager.resume_thread_from_rollout(config, path_to_go_on(options.home_dir, thread))

    leave_with(lambda: _turn(options, begin, prompt))


@app.command()
@taking(Options)
def fork(
    options: Options,
    thread: Thread,
    prompt: FurtherPrompt = None,
    before: Annotated[
        int | None,
        typer.Option("--before", metavar="N", min=0, help="Keep what came before user message N, from 0 [all]."),
    ] = None,
) -> None:
    """Begin a new thread with the past of another.

    Without a prompt, say its id.

    \b
    Example:
      codex-actors fork 019ac5a1-6a5e-7d02-8f4e-6d1a3f0c2b11 --before 1 "Do it another way."
    """

    def begin(manager: ThreadManager, config: Config) -> Reply[NewThread]:
        return manager.fork_thread(before, config, path_to_go_on(options.home_dir, thread))

    leave_with(lambda: _turn(options, begin, prompt, is_new=True))


@app.command()
@taking(ModelOptions)
def models(options: ModelOptions, as_json: LinesOption = False) -> None:
    """List the models; the default one has a star.

    \b
    Example:
      codex-actors models --base-url http://localhost:8000/v1
    """
    leave_with(lambda: run_in_foreground(lambda: _models(options, as_json)))


def leave_with(work: Callable[[], int]) -> None:
    """Do it, and leave with its exit status; what a user can cause is one line on standard error, never a traceback.

    Raises:
        typer.Exit: always.
    """
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s: %(message)s")
    try:
        status = work()
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except Refused as refusal:
        status = _fail(str(refusal), 2)
    except CodexError as error:
        status = _fail(str(error), 1)
    except KeyboardInterrupt:
        status = INTERRUPTED
    raise typer.Exit(status)


def _fail(why: str, status: int) -> int:
    sys.stderr.write(f"codex-actors: {harmless(' '.join(why.split()))}\n")
    return status


# --- turns -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """A thread, and what to ask it; without a prompt nothing is asked."""

    options: Options
    begin: Begin
    prompt: str | None
    is_new: bool

    async def do(self, manager: ThreadManager, config: Config, screen: Screen) -> int:
        with Interrupts() as interrupts:
            async with manager:
                new = await self.begin(manager, config)
                if isinstance(screen, LinesScreen):
                    screen.show(Event("", new.session_configured))
                if self.prompt is None:
                    self._show(new, screen)
                    return 0
                interrupts.thread = new.thread
                result: TurnResult | None = None
                try:
                    result = await drive(new.thread, self.prompt, screen, asks=can_ask())
                finally:
                    screen.end(result)
                    self._say_how_to_go_on(new, screen, result)
                return STATUS[result.status.word]

    def _show(self, new: NewThread, screen: Screen) -> None:
        if isinstance(screen, LinesScreen):
            return
        if self.is_new:
            sys.stdout.write(f"{new.thread_id}\n")
            return
        for message in new.session_configured.initial_messages or ():
            if isinstance(message, UserMessage):
                sys.stdout.write("".join(f"> {line}\n" for line in _shown(message.message).splitlines()))
            elif isinstance(message, AgentMessage):
                sys.stdout.write(f"{_shown(message.message)}\n")

    def _say_how_to_go_on(self, new: NewThread, screen: Screen, result: TurnResult | None) -> None:
        home = ["--home", str(self.options.home_dir)] if self.options.home is not None else []
        command = shlex.join(["codex-actors", "resume", new.thread_id, *home])
        is_cut = result is None or result.status.word == "interrupted"
        tokens = f"{new.thread.total_token_usage().total_tokens:,} tokens; "
        screen.notes.say(f"{'interrupted; ' if is_cut else tokens}to go on: {command}", "dim")


def _shown(text: str) -> str:
    return harmless(text) if sys.stdout.isatty() else text


def _turn(options: Options, begin: Begin, prompt: str | None, *, is_new: bool = False) -> int:
    if prompt == "-":
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        raise Refused("the prompt is empty")
    config = config_of(options)
    # Nobody is asked anything without a prompt.
    model = ScriptedModel() if prompt is None else model_of(options, asks=True)
    notes = notes_for_stderr()
    screen: Screen = LinesScreen(notes) if options.as_json else TextScreen(notes, streams=sys.stdout.isatty())
    job = _Job(options, begin, prompt, is_new)
    return run_in_foreground(lambda: job.do(ThreadManager(options.home_dir, model=model), config, screen))


# --- lists -------------------------------------------------------------------------------------------------------------


async def _models(options: ModelOptions, as_json: bool) -> int:
    async with ThreadManager(options.home_dir, model=model_of(options)) as manager:
        presets = await manager.list_models(Config(model=options.model))
    if as_json:
        for preset in presets:
            typer.echo(json.dumps(preset.model_dump(mode="json")))
    else:
        show_table(
            [("*" if each.is_default else " ", each.model, each.display_name, each.description) for each in presets]
        )
    return 0
