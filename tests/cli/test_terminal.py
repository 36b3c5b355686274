from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pexpect  # type: ignore[import-untyped]
import pytest

ASKING = str(Path(__file__).with_name("_asking.py"))
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7])(?:;\d+)*m")


def rest_of(child: Any) -> str:
    child.expect(pexpect.EOF)
    child.wait()
    return str(child.before)


def test_text_is_streamed_as_it_comes(terminal: Any) -> None:
    child = terminal("run", "--provider", "_providers:endless", "Go.")
    child.expect_exact("half of the ")
    assert child.isalive()


def test_model_without_deltas_is_shown_once(terminal: Any) -> None:
    said = rest_of(terminal("run", "--provider", "_providers:deltaless", "Go."))
    assert said.count("whole, without deltas\r\n") == 1


def test_spinner_turns_while_model_thinks(terminal: Any) -> None:
    child = terminal("run", "--provider", "_providers:silent", "Go.")
    for frame in "⠋⠙⠹":
        child.expect(frame + r"\S* \S*thinking")


def test_each_call_is_one_line(terminal: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    child = terminal("run", "--provider", "_providers:looking", "--files", ".", "Go.")
    child.expect_exact("I will look.\r\n")
    child.expect(r'✓ list_files pattern="\*\.txt" → a\.txt \(1 bytes\)')
    child.expect(r"1,234 tokens")
    child.expect_exact("There is: a.txt (1 bytes)\r\n")
    child.expect(r"2,468 tokens; to go on: codex-actors resume")


def test_terminal_obeys_nothing_models_say(terminal: Any) -> None:
    child = terminal("run", "--provider", "_providers:unruly", "Go.")
    child.expect_exact("␛[2Jred�31m é end")


def test_colours_are_left_out_when_asked(terminal: Any) -> None:
    assert COLOUR.search(rest_of(terminal("run", "--provider", "_providers:overloaded", "Go.")))
    plain = rest_of(terminal("run", "--provider", "_providers:overloaded", "Go.", NO_COLOR="1"))
    assert "error: the model's server is overloaded" in plain
    assert not COLOUR.search(plain)


def test_dumb_terminal_gets_plain_lines(terminal: Any) -> None:
    said = rest_of(terminal("run", "--embedded", "Hello.", TERM="dumb"))
    assert said.startswith("echo: Hello.\r\n")
    assert "\x1b" not in said


def test_answer_in_pipe_leaves_notes_on_terminal(terminal: Any, tmp_path: Path) -> None:
    script = f"{sys.executable} -m codex_actors run --embedded Hello. > answer"
    child = terminal("-c", f"import os; os.execv('/bin/sh', ['sh', '-c', {script!r}])", program=())
    assert "to go on: codex-actors resume" in rest_of(child)
    assert (tmp_path / "answer").read_text() == "echo: Hello.\n"


def test_list_is_cut_to_width_of_terminal(command: Any, terminal: Any) -> None:
    command("run", "--embedded", "word " * 100)
    (line,) = rest_of(terminal("ls")).splitlines()
    assert len(line) <= 100
    assert "…" in line


# --- Ctrl-C ------------------------------------------------------------------------------------------------------------


def test_interrupt_ends_turn_and_says_how_on(terminal: Any, command: Any) -> None:
    child = terminal("run", "--provider", "_providers:endless", "Go.")
    child.expect_exact("half of the ")
    child.sendintr()
    child.expect_exact("interrupting; Ctrl-C again leaves at once")
    child.expect(r"interrupted; to go on: codex-actors resume ([0-9a-f-]{36})")
    thread_id = child.match[1]
    rest_of(child)
    assert child.exitstatus == 130
    assert command("resume", thread_id, "--embedded", "Go on.").stdout == "echo: Go on.\n"


def test_second_interrupt_leaves_a_blocked_loop(terminal: Any) -> None:
    child = terminal("run", "--provider", "_providers:blocking", "Go.")
    child.expect("thinking")
    child.sendintr()
    child.expect_exact("interrupting; Ctrl-C again leaves at once")
    child.sendintr()
    child.expect_exact("leaving")
    rest_of(child)
    assert child.exitstatus == 130


def test_third_interrupt_shows_the_cursor_again(terminal: Any) -> None:
    child = terminal("run", "--provider", "_providers:blocking", "Go.")
    for answer in ("thinking", "interrupting", "leaving"):
        child.expect(answer)
        child.sendintr()
    assert rest_of(child).endswith("\x1b[?25h")
    assert child.exitstatus == 130


# --- approvals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "decided"),
    [("y", "approved"), ("a", "approved_for_session"), ("n", "denied"), ("what?\ny", "approved"), ("\x04", "denied")],
)
def test_answer_at_terminal_decides(terminal: Any, typed: str, decided: str) -> None:
    child = terminal("60", program=(ASKING,))
    for line in typed.split("\n"):
        child.expect_exact("[q] no, and stop: ")
        child.send(line) if line == "\x04" else child.sendline(line)
    child.expect_exact(f"decided: {decided}\r\n")
    child.expect_exact("status: completed")


def test_stop_at_terminal_interrupts_the_turn(terminal: Any) -> None:
    child = terminal("60", program=(ASKING,))
    child.expect_exact("[q] no, and stop: ")
    child.sendline("q")
    child.expect_exact("status: interrupted")


def test_question_shows_command_and_reason(terminal: Any) -> None:
    child = terminal("60", program=(ASKING,))
    child.expect("May this run in /")
    child.expect_exact("rm -f ␛[8mhidden")
    child.expect_exact("because: it is in the way")


def test_question_without_answer_ends_in_time(terminal: Any) -> None:
    child = terminal("0.5", program=(ASKING,))
    child.expect_exact("no answer within 0.5 s: denied")
    child.expect_exact("decided: denied")


def test_interrupt_ends_a_question(terminal: Any) -> None:
    child = terminal("60", program=(ASKING,))
    child.expect_exact("[q] no, and stop: ")
    child.sendintr()
    child.expect_exact("status: interrupted")


def test_nobody_to_ask_denies_at_once(environment: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, ASKING, "60"], env=environment, capture_output=True, text=True, timeout=30, input="y\n"
    )
    assert ran.stdout == "decided: denied\n"
    assert "denied, because nobody can be asked: rm -f ␛[8mhidden" in ran.stderr
