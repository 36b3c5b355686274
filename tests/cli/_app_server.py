"""A program that speaks as `codex app-server` does, as far as `verify --codex` asks; its first argument is its manner."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

HOME = Path(os.environ["CODEX_HOME"])
MANNER, NOTES = sys.argv[1], Path(sys.argv[2])


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def rollout() -> list[dict[str, Any]]:
    (path,) = HOME.glob("sessions/*/*/*/rollout-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def ask_model(prompt: str) -> None:
    config = tomllib.loads((HOME / "config.toml").read_text())
    url = config["model_providers"][config["model_provider"]]["base_url"] + "/responses"
    items = [line["payload"] for line in rollout() if line["type"] == "response_item"]
    if MANNER == "forgets":
        items.pop()
    elif MANNER == "invents":
        items.insert(0, {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "invented"}]})
    said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": prompt}]}
    data = json.dumps({"input": [*items, said]}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, method="POST"), timeout=20) as answer:
        assert b"response.completed" in answer.read()


def hang() -> None:
    held = (NOTES / "held").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    subprocess.Popen(["sleep", "600"], pass_fds=[held.fileno()])
    time.sleep(600)


def answer(method: str, parameters: dict[str, Any]) -> Any:
    thread_id = rollout()[0]["payload"]["id"]
    match method:
        case "initialize":
            return {"userAgent": "fake/0.1.2 (x)"}
        case "thread/list":
            return {"data": [] if MANNER == "lists nothing" else [{"id": thread_id}]}
        case "thread/resume":
            return {"thread": {"id": thread_id}}
        case _:
            ask_model(parameters["input"][0]["text"])
            return {}


def main() -> None:
    (NOTES / "environment").write_text(json.dumps(dict(os.environ)))
    for line in sys.stdin:
        asked = json.loads(line)
        method = asked["method"]
        if MANNER == "hangs" and method == "thread/resume":
            hang()
        elif MANNER == "crashes" and method == "thread/resume":
            sys.exit("out of luck")
        elif MANNER == "is another program":
            print("usage: another [OPTIONS]", flush=True)
        elif MANNER == "refuses" and method == "thread/resume":
            say(id=asked["id"], error={"code": -32603, "message": "no such chat"})
        elif "id" in asked:
            say(id=asked["id"], result=answer(method, asked["params"]))
            if method == "turn/start":
                say(method="turn/completed", params={"threadId": "t", "turn": {"status": "completed"}})


main()
