"""Whether the real Codex goes on with a rollout: it is given a copy, and runs one turn against a model of our own.

The law of this file: nothing of the user's is written, nothing of the user's environment but the path and the language is
passed on, nothing waits without an end, and no process is left behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_actors.cli.model_stand_in import ModelStandIn
from codex_actors.cli.options import Refused
from codex_actors.errors import RolloutError
from codex_actors.protocol.wire import wire_value
from codex_actors.rollout.chain import meta_of, segments_of
from codex_actors.rollout.load import load_rollout
from codex_actors.rollout.summary import name_parts

LIMIT_S = 60.0
"""How long one file may take, from the start of the program to the end of its turn."""

SHOWN = 3
"""How many differences are listed of one file."""

PROMPT = "What did I say before?"

_MODEL = "gpt-5.1-codex"
_WORDS = 90
_LINE_BYTES = 1 << 30
_STDERR_BYTES = 400
_SEGMENT = "00000000-0000-7000-8000-000000000000"

_CONFIG = """model = "{model}"
model_provider = {provider}
approval_policy = "never"
sandbox_mode = "read-only"
check_for_update_on_startup = false
[analytics]
enabled = false
[feedback]
enabled = false
[otel]
exporter = "none"
[history]
persistence = "none"
"""

_PROVIDER = """[model_providers.{name}]
name = "stand-in"
base_url = "http://127.0.0.1:{port}/v1"
env_key = "STAND_IN_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""

_BUILT_IN = ("openai", "ollama", "lmstudio", "amazon-bedrock")
"""Providers that every Codex has, and that no configuration may replace."""

_CONTEXT = (
    "<environment_context>",
    "# AGENTS.md",
    "<user_instructions>",
    "<permissions",
    "<skills",
    "<collaboration",
    "<apps",
    "<plugins",
    "<multi_agent",
    "<recommended",
)
"""How the messages begin that Codex writes anew in each turn."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the program has done with a file: `problems` is empty where it went on as we would. `version` is its own word."""

    version: str
    items: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Job:
    thread_id: str
    provider: str
    is_listed: bool
    expected: list[dict[str, Any]]


class _Answered(Exception):
    """The program answered a request with an error, or not as Codex does; the text says it."""


async def check(binary: Path, path: Path, *, limit_s: float = LIMIT_S) -> Finding:
    """Let the program list and resume a copy of the rollout, and compare what it sends to the model with our history.

    Raises:
        Refused: the program is missing, is no Codex, ended, or took more than `limit_s`.
        RolloutError: the rollout, or one that its history begins with, cannot be read.
    """
    expected = [wire_value(item) for item in load_rollout(path).history]
    thread_id, source = _thread_of(path)
    program = _program(binary)
    with tempfile.TemporaryDirectory(prefix="codex-actors-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        _place(path, home)
        async with ModelStandIn() as model:
            provider = _configure(home, model.port, path)
            job = _Job(thread_id, provider, source in ("cli", "vscode"), expected)
            server = await _AppServer.start(program, home)
            try:
                async with asyncio.timeout(limit_s):
                    return await _go_on(server, model, job)
            except TimeoutError:
                raise Refused(f"--codex {binary}: did not finish within {limit_s:g} s ({server.doing})") from None
            except EOFError:
                raise Refused(f"--codex {binary}: ended early ({server.doing}){server.last_words(home)}") from None
            finally:
                await server.kill()


async def _go_on(server: _AppServer, model: ModelStandIn, job: _Job) -> Finding:
    thread_id, expected = job.thread_id, job.expected
    count = len([item for item in expected if not _is_context(item)])
    version = await server.greet()
    try:
        listed = await server.ask("thread/list", {"limit": 50, "modelProviders": []})
        problems = []
        if job.is_listed and thread_id not in [
            each.get("id") for each in listed.get("data", []) if isinstance(each, dict)
        ]:
            problems.append("it does not list the thread")
        where = {"threadId": thread_id, "modelProvider": job.provider, "model": _MODEL, "cwd": str(server.cwd)}
        resumed = (await server.ask("thread/resume", where)).get("thread", {}).get("id")
        if resumed != thread_id:
            problems.append(f"it resumed the thread as {resumed!r}")
        turn = await server.turn(thread_id)
    except _Answered as refusal:
        return Finding(version, count, (str(refusal),))
    if turn.get("status") != "completed":
        problems.append(f"its turn ended as {turn.get('status')}: {_short(turn.get('error'))}")
    if not model.inputs:
        problems.append("it asked no model")
    else:
        problems += differences(expected, model.inputs[0])
    return Finding(version, count, tuple(problems))


def _program(binary: Path) -> Path:
    program = shutil.which(binary.expanduser())
    if program is None:
        raise Refused(f"--codex {binary}: there is no such program")
    return Path(program).absolute()


def _configure(home: Path, port: int, path: Path) -> str:
    """Newer Codex resumes a thread only with the provider that it had: each that is recorded is our stand-in. Its name."""
    names = [_provider_of(meta_of(segment.path) or {}) for segment in segments_of(path)]
    tables = [_PROVIDER.format(name=json.dumps(name), port=port) for name in sorted(set(names))]
    config = _CONFIG.format(model=_MODEL, provider=json.dumps(names[-1]))
    (home / "config.toml").write_text(config + "".join(tables), encoding="utf-8")
    return names[-1]


def _provider_of(meta: dict[str, Any]) -> str:
    """The recorded one; for one that cannot be replaced a name of the same length, so that no byte has another place."""
    name = meta.get("model_provider")
    if not isinstance(name, str) or not name:
        return "stand_in"
    return "x" * len(name) if name in _BUILT_IN else name


def _copy(path: Path, target: Path, meta: dict[str, Any]) -> None:
    """Byte by byte, but for the name of a provider that cannot be replaced."""
    try:
        shutil.copyfile(path, target)
        if meta.get("model_provider") in _BUILT_IN:
            old, new = (json.dumps(name).encode() for name in (meta["model_provider"], _provider_of(meta)))
            with target.open("r+b") as file:
                first = re.sub(rb'("model_provider"\s*:\s*)' + re.escape(old), rb"\1" + new, file.readline(), count=1)
                file.seek(0)
                file.write(first)
    except OSError as error:
        raise RolloutError(path, f"cannot copy the rollout ({error.strerror or error})") from error


def _thread_of(path: Path) -> tuple[str, Any]:
    meta = meta_of(path) or {}
    if not isinstance(meta.get("id"), str):
        raise RolloutError(path, "its first line is no session_meta, so Codex cannot be asked for its thread")
    return meta["id"], meta.get("source", "vscode")


def _place(path: Path, home: Path) -> None:
    """Copy the file, and those that its history begins with, to where Codex looks for them."""
    (home / "cwd").mkdir()
    main_id = _thread_of(path)[0]
    for segment in segments_of(path):
        meta = meta_of(segment.path) or {}
        thread_id, named = str(meta.get("id")), name_parts(segment.path.name)
        if named is not None and named[1] == thread_id.lower():
            began, name = named[0], segment.path.name
        else:
            began = str(meta.get("timestamp"))[:19].replace(":", "-")
            is_later = segment.path == path and (meta.get("history_base") or {}).get("thread_id") == main_id
            name = f"rollout-{began}-{thread_id}{f'_{_SEGMENT}' * is_later}.jsonl"
        if name_parts(name) is None:
            raise RolloutError(
                segment.path, "Codex cannot find it: neither its name nor its meta has a time and a thread id"
            )
        folder = home.joinpath("sessions", *began[:10].split("-"))
        folder.mkdir(parents=True, exist_ok=True)
        _copy(segment.path, folder / name, meta)


# --- what is the same ----------------------------------------------------------------------------------------------------


def differences(expected: list[dict[str, Any]], sent: list[Any]) -> Iterator[str]:
    """Sentences on what of `expected` was not sent, or not in this order, and what else was; the new prompt comes last."""
    *before, last = [item for item in sent if isinstance(item, dict)] or [{}]
    if _text(last) != PROMPT:
        yield f"the last item it sent is not the new prompt: {_short(_key(last))}"
    wanted = [_key(item) for item in expected if not _is_context(item)]
    had = [_key(item) for item in before if not _is_context(item)]
    place, missing = 0, []
    for number, key in enumerate(wanted):
        try:
            place = had.index(key, place) + 1
        except ValueError:
            missing.append(f"item {number} was not sent, or not in its place: {_short(key)}")
    extra = [f"it also sent: {_short(key)}" for key in (Counter(had) - Counter(wanted)).elements()]
    for found, what in ((missing, "more items were not sent"), (extra, "more items were sent besides")):
        yield from found[:SHOWN]
        if len(found) > SHOWN:
            yield f"{len(found) - SHOWN} {what}"


def _key(item: dict[str, Any]) -> tuple[Any, ...]:
    """What two forms of the same item have in common."""
    kind = item.get("type", "message")
    if kind == "message":
        return kind, item.get("role"), _text(item)
    if kind in ("function_call", "custom_tool_call"):
        return kind, item.get("call_id"), item.get("name"), item.get("arguments", item.get("input"))
    if kind in ("function_call_output", "custom_tool_call_output"):
        return kind, item.get("call_id"), json.dumps(item.get("output"), sort_keys=True)
    if kind == "reasoning":
        return kind, item.get("encrypted_content"), json.dumps(item.get("summary"), sort_keys=True)
    unmarked = {name: value for name, value in item.items() if name != "id" and value is not None}
    return kind, json.dumps(unmarked, sort_keys=True)


def _text(item: dict[str, Any]) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content or [] if isinstance(part, dict))


def _is_context(item: dict[str, Any]) -> bool:
    if item.get("type", "message") != "message":
        return item.get("type") in ("ghost_snapshot", "other")
    return item.get("role") in ("developer", "system") or (
        item.get("role") == "user" and _text(item).lstrip().startswith(_CONTEXT)
    )


def _short(value: Any) -> str:
    words = " ".join(str(each) for each in value if each is not None) if isinstance(value, tuple) else str(value)
    words = " ".join(words.split())
    return words if len(words) <= _WORDS else words[: _WORDS - 1] + "…"


# --- the program ---------------------------------------------------------------------------------------------------------


class _AppServer:
    """The program's `app-server`: JSON-RPC, one object a line. `doing` says what it was asked last."""

    def __init__(self, process: asyncio.subprocess.Process, cwd: Path) -> None:
        self.cwd = cwd
        self.doing = "at its start"
        self._process = process
        self._id = 0

    @classmethod
    async def start(cls, program: Path, home: Path) -> _AppServer:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        ours = {"CODEX_HOME": str(home), "HOME": str(home), "STAND_IN_KEY": "none", "NO_PROXY": "127.0.0.1"}
        try:
            with (home / "stderr").open("wb") as stderr:
                process = await asyncio.create_subprocess_exec(
                    program,
                    "app-server",
                    cwd=home / "cwd",
                    env=kept | ours,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=stderr,
                    limit=_LINE_BYTES,
                    start_new_session=True,
                )
        except OSError as error:
            raise Refused(f"--codex {program}: cannot be run ({error.strerror})") from error
        return cls(process, home / "cwd")

    async def greet(self) -> str:
        """The version that it tells of itself.

        Raises:
            Refused: it does not answer as Codex does.
        """
        client = {"name": "codex_actors", "title": None, "version": "0"}
        try:
            told = await self.ask("initialize", {"clientInfo": client, "capabilities": {"experimentalApi": True}})
        except _Answered as error:
            raise Refused(f"--codex: the program is no Codex with an app-server ({error})") from None
        await self._send({"method": "initialized"})
        agent = str(told.get("userAgent", ""))
        return agent.partition("/")[2].partition(" ")[0] or "of an unknown version"

    async def ask(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._id += 1
        self.doing = f"asked for {method}"
        await self._send({"id": self._id, "method": method, "params": parameters})
        while True:
            told = await self._next()
            if told.get("id") != self._id or "method" in told:
                continue
            if "error" in told:
                error = told["error"]
                words = error.get("message") if isinstance(error, dict) else error
                raise _Answered(f"it refuses {method}: {_short(words)}")
            if not isinstance(told.get("result"), dict):
                raise _Answered(f"it answers {method} with no object")
            return dict(told["result"])

    async def turn(self, thread_id: str) -> dict[str, Any]:
        """One turn, as it was when it ended."""
        said = {"type": "text", "text": PROMPT, "text_elements": []}
        await self.ask("turn/start", {"threadId": thread_id, "input": [said]})
        self.doing = "in its turn"
        while True:
            told = await self._next()
            parameters = told.get("params")
            if told.get("method") == "turn/completed" and isinstance(parameters, dict):
                turn = parameters.get("turn")
                return turn if isinstance(turn, dict) else {}

    async def _next(self) -> dict[str, Any]:
        """What it says next; requests of its own are declined."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError
        try:
            told = json.loads(line)
        except ValueError:
            raise _Answered(f"it writes no JSON: {_short(line.decode(errors='replace'))}") from None
        if not isinstance(told, dict):
            raise _Answered(f"it writes no JSON object: {_short(told)}")
        if "method" in told and "id" in told:
            await self._send({"id": told["id"], "error": {"code": -32601, "message": "not here"}})
        return told

    async def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        try:
            await self._process.stdin.drain()
        except ConnectionError:
            raise EOFError from None

    def last_words(self, home: Path) -> str:
        """The end of its standard error, as part of a sentence."""
        said = (home / "stderr").read_bytes()[-_STDERR_BYTES:].decode(errors="replace")
        return f": {' '.join(said.split())}" if said.strip() else ""

    async def kill(self) -> None:
        """End it with all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
