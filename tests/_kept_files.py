"""Rollouts of a few lines, as programs write them."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

BEGAN = "2027-03-01T10-00-00"


def thread_id_of(number: int) -> str:
    return str(uuid.UUID(int=0x01A21000 << 96 | 7 << 76 | 2 << 62 | number))


def kept_path(home: Path, number: int, *, began: str = BEGAN, archived: bool = False, segment: str = "") -> Path:
    folder = home / "archived_sessions" if archived else home / "sessions" / began[:10].replace("-", "/")
    return folder / f"rollout-{began}-{thread_id_of(number)}{segment}.jsonl"


def line(kind: str, **payload: Any) -> str:
    return json.dumps({"timestamp": "2027-03-01T10:00:00.000Z", "type": kind, "payload": payload}) + "\n"


def meta_line(number: int, **more: Any) -> str:
    values = {"id": thread_id_of(number), "timestamp": "2027-03-01T10:00:00.000Z", "cwd": "/home/user/project"}
    return line("session_meta", **{**values, "originator": "test", "cli_version": "1", "source": "cli"} | more)


def user_lines(text: str) -> str:
    item = line("response_item", type="message", role="user", content=[{"type": "input_text", "text": text}])
    return item + line("event_msg", type="user_message", message=text)


def turn_lines(text: str = "Hello.", *, tokens: int = 10, model: str = "m") -> str:
    content = [{"type": "output_text", "text": f"echo: {text}"}]
    usage = {
        "input_tokens": 1,
        "cached_input_tokens": 0,
        "output_tokens": 1,
        "reasoning_output_tokens": 0,
        "total_tokens": tokens,
    }
    info = {"total_token_usage": usage, "last_token_usage": usage, "model_context_window": None}
    policy = {"type": "danger-full-access"}
    return (
        user_lines(text)
        + line("turn_context", cwd="/home/user/project", approval_policy="never", sandbox_policy=policy, model=model)
        + line("response_item", type="message", role="assistant", content=content)
        + line("event_msg", type="agent_message", message=f"echo: {text}")
        + line("event_msg", type="token_count", info=info)
    )


def keep(home: Path, number: int, text: str | None = None, *, mtime_s: float | None = None, **place: Any) -> Path:
    path = kept_path(home, number, **place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(meta_line(number) + turn_lines() if text is None else text)
    if mtime_s is not None:
        os.utime(path, (mtime_s, mtime_s))
    return path


def tree_of(home: Path) -> dict[str, tuple[int, int, int]]:
    """Each file and folder of a home: inode, time of its last change, size."""
    found = {str(path): path.lstat() for path in (home, *home.rglob("*"))}
    return {path: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in found.items()}
