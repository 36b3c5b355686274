"""What rollouts cost: resume, fork, list, append: `python benchmarks/rollouts.py [--only ROW,...] [--codex PATH]`.

Every row runs in fresh processes of this interpreter, row after row, round after round; a figure is the median of its
rounds. The files are of plain turns with their reasoning, 560 bytes a line, as Codex 0.87 writes them; they are in the page
cache. `--codex` measures a real Codex app-server beside it, with its own files of as many lines, if the tools for that lie
beside this checkout.
Exit status: 0 all measured (targets met or not), 2 a row measured nothing, lost something or counted wrong.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import _lib
import psutil
from _lib import ROOT, Figure, Group, Settings, check, per_second, rss_bytes

sys.path.insert(0, str(ROOT))

from codex_actors import Config, ScriptedModel, ThreadManager
from codex_actors.config import Durability
from codex_actors.protocol.items import Message, OutputText
from codex_actors.rollout.encode import encode_body
from codex_actors.rollout.index import Index
from codex_actors.rollout.listing import ThreadQuery
from codex_actors.rollout.owed import Append
from codex_actors.rollout.writer import RolloutWriter

CONFIG = Config()
BEGUN = datetime(2026, 9, 1, 8, tzinfo=UTC)
STAMP = "2026-09-01T08:00:00.000Z"
CODEX_TOOLS = ROOT.parent / "shared" / "codex" / "tools"
CODEX_TIMEOUT_S = 1800.0
TURN_LINES = 10
FILLER = "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all. "


# --- files -----------------------------------------------------------------------------------------------------------


def line_of(kind: str, **payload: Any) -> bytes:
    """A line as Codex 0.87 writes it."""
    value = {"timestamp": STAMP, "type": kind, "payload": payload}
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def message(role: str, text: str) -> dict[str, Any]:
    """The payload of a message."""
    part = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": part, "text": text}]}


def turn_of(number: int) -> bytes:
    """The ten lines of a turn: 5.6 KB."""
    counts = {"input_tokens": 100, "cached_input_tokens": 0, "output_tokens": 20, "reasoning_output_tokens": 0}
    usage = {**counts, "total_tokens": 120 * (number + 1)}
    info = {"total_token_usage": usage, "last_token_usage": {**counts, "total_tokens": 120}}
    text, policy = f"question {number}: {FILLER * 6}", {"type": "danger-full-access"}
    call = {"name": "shell", "arguments": json.dumps({"command": FILLER * 4}), "call_id": f"call_{number}"}
    return b"".join(
        [
            line_of("response_item", **message("user", text)),
            line_of("event_msg", type="user_message", message=text, images=[]),
            line_of(
                "turn_context",
                cwd="/home/user/project",
                approval_policy="never",
                sandbox_policy=policy,
                model="m",
                summary="auto",
                user_instructions=FILLER * 2,
            ),
            line_of("event_msg", type="agent_reasoning", text=FILLER * 3),
            line_of("response_item", type="reasoning", summary=[{"type": "summary_text", "text": FILLER * 3}]),
            line_of("response_item", type="function_call", **call),
            line_of("response_item", type="function_call_output", call_id=f"call_{number}", output=FILLER * 8),
            line_of("response_item", **message("assistant", FILLER * 6)),
            line_of("event_msg", type="agent_message", message=FILLER * 6),
            line_of("event_msg", type="token_count", info=info),
        ]
    )


def path_of(home: Path, number: int, *, days: int = 1) -> tuple[Path, bytes]:
    """Where a thread is kept, and its first line."""
    began = BEGUN + timedelta(days=number % days, seconds=number)
    thread_id = uuid.UUID(int=0x01A21000 << 96 | 7 << 76 | 2 << 62 | number)
    folder = home / "sessions" / began.strftime("%Y/%m/%d")
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"id": str(thread_id), "timestamp": STAMP, "cwd": f"/home/user/{number % 7}", "source": "cli"}
    path = folder / f"rollout-{began:%Y-%m-%dT%H-%M-%S}-{thread_id}.jsonl"
    return path, line_of("session_meta", **meta, originator="bench", cli_version="0.87.0", instructions=FILLER * 9)


def written(home: Path, number: int, lines: int) -> Path:
    """A rollout with about so many lines."""
    path, meta = path_of(home, number)
    path.write_bytes(meta + b"".join(turn_of(turn) for turn in range(max(1, lines // TURN_LINES))))
    return path


@contextmanager
def fresh_home() -> Iterator[Path]:
    """A home that goes away."""
    with tempfile.TemporaryDirectory(prefix="codex_actors-bench-") as folder:
        yield Path(folder)


# --- rows ------------------------------------------------------------------------------------------------------------


def row_resume(settings: Settings) -> Mapping[str, float]:
    """From the path to a thread that takes input; five files each."""
    figures: dict[str, float] = {}
    with fresh_home() as home, ThreadManager(home) as manager:
        manager.resume_thread_from_rollout(CONFIG, written(home, 999, 10)).get()  # builds validators, once per process
        for place, lines in enumerate((10, 1_000, 10_000)):
            paths = [written(home, 100 * place + number, lines) for number in range(2 if settings.quick else 5)]
            seen = []
            for path in paths:
                begun_s = time.perf_counter()
                thread = manager.resume_thread_from_rollout(CONFIG, path).get().thread
                seen.append((time.perf_counter() - begun_s) * 1e3)
                check(thread.total_token_usage().total_tokens == 120 * max(1, lines // 10), "a thread was cut short")
                del thread
            figures[f"resume_{lines}"] = median(seen)
    return figures


def row_fork(settings: Settings) -> Mapping[str, float]:
    """From the path to a new thread whose file is whole."""
    seen = []
    with fresh_home() as home, ThreadManager(home) as manager:
        source = written(home, 1, 10_000)
        before = source.read_bytes()
        for _ in range(2 if settings.quick else 5):
            begun_s = time.perf_counter()
            thread = manager.fork_thread(None, CONFIG, source).get().thread
            seen.append((time.perf_counter() - begun_s) * 1e3)
            check(thread.rollout_path is not None, "a fork has no file")
            assert thread.rollout_path is not None
            check(thread.rollout_path.stat().st_size > len(before) * 0.9, "a fork's file is cut short")
        check(source.read_bytes() == before, "the source was changed")
    return {"fork_10000": median(seen)}


def row_large(settings: Settings) -> Mapping[str, float]:
    """A file whose surviving history is 1 MB: the rest was replaced by a summary."""
    size = 1 << (26 if settings.quick else 30)
    with fresh_home() as home, ThreadManager(home) as manager:
        path, meta = path_of(home, 1)
        block = b"".join(turn_of(turn) for turn in range(1_000))
        with path.open("wb") as file:
            file.write(meta)
            while file.tell() < size:
                file.write(block)
            kept = [message("user", f"kept {number} {FILLER * 12}") for number in range(1_000)]
            file.write(line_of("compacted", message="summary", replacement_history=kept))
            file.write(turn_of(0))
        before = rss_bytes()
        # What would need more than this machine may have fails here, and not elsewhere.
        most = before + (6 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (most + (1 << 30), most + (1 << 30)))
        peak, begun_s = _Peak(), time.perf_counter()
        thread = manager.resume_thread_from_rollout(CONFIG, path).get(timeout=300).thread
        took_s = time.perf_counter() - begun_s
        check(thread.total_token_usage().total_tokens == 120, "the newest line was not read")
        return {"large_rss": (peak.rss_bytes() - before) / 2**20, "large_rate": path.stat().st_size / 1e6 / took_s}


class _Peak:
    """The most memory that this process has held since it was made, where the system can say so."""

    def __init__(self) -> None:
        with suppress(OSError):  # the peak since the start is no less
            Path("/proc/self/clear_refs").write_text("5")

    def rss_bytes(self) -> int:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return int(psutil.Process().memory_info().rss)
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def row_list(settings: Settings) -> Mapping[str, float]:
    """100 of 10,000 threads on 60 days, from the index; and the first answer of a home that has none."""
    count = 500 if settings.quick else 10_000
    query = ThreadQuery(limit=100)
    with fresh_home() as home:
        for number in range(count):
            path, meta = path_of(home, number, days=60)
            path.write_bytes(meta + turn_of(0) + turn_of(1))
        old_s = time.time() - 3600
        for folder in home.rglob("*"):
            os.utime(folder, (old_s, old_s))
        index = Index(home, writes=True)
        begun_s = time.perf_counter()
        page = index.list_threads(query)
        rebuilt_s = time.perf_counter() - begun_s
        check(len(page.threads) == 100, f"{len(page.threads)} threads were listed, not 100")
        index.list_threads(query)  # the first sweep
        seen = []
        for _ in range(50):
            begun_s = time.perf_counter()
            check(index.list_threads(query) == page, "a warm list differs")
            seen.append((time.perf_counter() - begun_s) * 1e3)
        index.close()
    return {"list_warm": median(seen), "list_rebuilt": rebuilt_s}


def row_append(settings: Settings) -> Mapping[str, float]:
    """Lines through a manager in one long turn, and through the writer for 1,000 files in batches."""
    threads, rounds = (100, 3) if settings.quick else (1_000, 20)
    figures = {"append_turn": _one_turn(200 if settings.quick else 1_000)}
    figures["append_flush"] = _appended("flush", threads, rounds)
    rounds = 1 if settings.quick else 2
    figures["append_fsync"] = _appended("fsync", threads, rounds)
    figures["append_fsync_bare"] = _bare_fsyncs(threads) * TURN_LINES
    figures["append_fsync_ratio"] = figures["append_fsync"] / figures["append_fsync_bare"]
    return figures


def _one_turn(items: int) -> float:
    answer = [Message(role="assistant", content=(OutputText(text=FILLER),)) for _ in range(items)]
    with fresh_home() as home, ThreadManager(home, model=ScriptedModel(["ready", answer])) as manager:
        thread = manager.start_thread(CONFIG).get().thread
        thread.run("Hello.").get()
        assert thread.rollout_path is not None
        before = len(thread.rollout_path.read_bytes().splitlines())
        begun_s = time.perf_counter()
        thread.run("Go.").get()
        rate = 1 / (time.perf_counter() - begun_s)
        lines = len(thread.rollout_path.read_bytes().splitlines()) - before
        check(lines >= items, f"{lines} lines of {items} items were written")
        return rate * lines


def _appended(durability: Durability, threads: int, rounds: int) -> float:
    """Lines per second: each batch is a turn of every thread."""
    body = encode_body(Message(role="assistant", content=(OutputText(text=FILLER * 6),)))
    with fresh_home() as home:
        paths = []
        for number in range(threads):
            path, meta = path_of(home, number)
            path.write_bytes(meta)
            paths.append(path)
        writer = RolloutWriter(durability)
        begun_s = time.perf_counter()
        for _ in range(rounds):
            results = writer.write([Append(path, STAMP, (body,) * TURN_LINES, create=False) for path in paths])
            check(not any(results), "a line could not be written")
        rate = per_second(threads * rounds * TURN_LINES, begun_s)
        writer.close()
        check(
            sum(path.read_bytes().count(b"\n") for path in paths) == threads * (1 + rounds * TURN_LINES),
            "lines were lost",
        )
        return rate


def _bare_fsyncs(count: int) -> float:
    """Appends of as many bytes with an fsync each, per second, to as many files."""
    data = FILLER.encode() * 6 * TURN_LINES
    with fresh_home() as home:
        paths = [home / str(number) for number in range(count)]
        for path in paths:
            path.write_bytes(data)
        begun_s = time.perf_counter()
        for path in paths:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.write(fd, data)
            os.fsync(fd)
            os.close(fd)
        return per_second(count, begun_s)


def row_bytes(settings: Settings) -> Mapping[str, float]:
    """A later plain turn of one thread: what its file grows by, and what all of the process writes for it."""
    turns = 10 if settings.quick else 100
    with fresh_home() as home, ThreadManager(home, model=ScriptedModel(lambda prompt: FILLER)) as manager:
        thread = manager.start_thread(CONFIG).get().thread
        thread.run("Hello.").get()
        process = psutil.Process()
        assert thread.rollout_path is not None
        size, wrote = thread.rollout_path.stat().st_size, process.io_counters().write_chars
        for _ in range(turns):
            thread.run("Hello.").get()
        grown = thread.rollout_path.stat().st_size - size
        all_written = process.io_counters().write_chars - wrote
        check(grown > 0, "nothing was written")
    return {"turn_bytes": grown / turns, "turn_amplification": all_written / grown}


GROUPS = (
    Group(
        "resume",
        row_resume,
        (
            Figure("resume_10", "resume to ready for input, 10 lines", "ms", at_most=1.5),
            Figure("resume_1000", "resume to ready for input, 1,000 lines", "ms", at_most=6),
            Figure("resume_10000", "resume to ready for input, 10,000 lines (5.6 MB)", "ms", at_most=45),
        ),
    ),
    Group("fork", row_fork, (Figure("fork_10000", "fork of 10,000 lines", "ms", at_most=45),)),
    Group(
        "large",
        row_large,
        (
            Figure("large_rss", "resume of 1 GiB (quick 64 MiB), 1 MB survives: memory", "MiB", at_most=64),
            Figure("large_rate", "  read", "MB/s", at_least=300),
        ),
        repeats=1,
    ),
    Group(
        "list",
        row_list,
        (
            Figure("list_warm", "list 100 of 10,000 threads, warm", "ms", at_most=5),
            Figure("list_rebuilt", "  the index rebuilt from nothing", "s", at_most=4),
        ),
    ),
    Group(
        "append",
        row_append,
        (
            Figure("append_turn", "one thread, a turn of 1,000 items, flush", "lines/s", at_least=20_000),
            Figure("append_flush", "1,000 threads, flush", "lines/s", at_least=60_000),
            Figure("append_fsync", "1,000 threads, fsync", "lines/s"),
            Figure("append_fsync_bare", "  bare fsyncs of the same run, x lines per batch", "lines/s"),
            Figure("append_fsync_ratio", "  of that", "x", at_least=0.5),
        ),
    ),
    Group(
        "bytes",
        row_bytes,
        (
            Figure("turn_bytes", "a plain turn: its file grows by", "bytes", at_most=6_000),
            Figure("turn_amplification", "  all that is written, of that", "x", at_most=1.1),
        ),
    ),
)


# --- the real Codex --------------------------------------------------------------------------------------------------


def real_codex(binary: Path) -> int:
    """Print what a real Codex takes for the same; the exit status."""
    tool = CODEX_TOOLS / "codex_bench.py"
    if not tool.is_file():
        print(
            f"--codex: there is no {tool.name} beside this checkout; the real Codex was not measured", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        command = [sys.executable, str(tool), "--codex", str(binary), "--out", str(out), "--only", "resume,fork,list"]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=CODEX_TIMEOUT_S)
            figures = json.loads(out.read_text())
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            print(f"--codex: NOTHING MEASURED: {error}", file=sys.stderr)
            return 2
    print(f"\nthe real Codex ({figures.get('codex', binary.name)}), ms, over its app-server")
    for section in ("resume", "fork", "list"):
        for name, seen in sorted((figures.get(section) or {}).items()):
            for key in ("ms", "list_100_ms"):
                if isinstance(seen, dict) and isinstance(seen.get(key), dict):
                    what = f"{section} {name}" if key == "ms" else "list 100 of 1,000 threads"
                    print(f"  {what:<56}{seen[key]['median']:>12} ms         min {seen[key]['min']}")
    return 0


def main() -> int:
    """Measure; the exit status."""
    arguments = sys.argv[1:]
    binary: Path | None = None
    if "--codex" in arguments:
        place = arguments.index("--codex")
        if place + 1 >= len(arguments):
            raise SystemExit("--codex needs the path of a Codex binary")
        binary = Path(arguments[place + 1])
        sys.argv[1:] = [*arguments[:place], *arguments[place + 2 :]]
    status = _lib.main(Path(__file__), __doc__, GROUPS)
    return status if binary is None else max(status, real_codex(binary))


if __name__ == "__main__":
    sys.exit(main())
