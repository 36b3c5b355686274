from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codex_actors.cli.transcript import Transcript, transcript_of
from codex_actors.rollout.damage import Damage
from tests._kept_files import line, meta_line, turn_lines, user_lines


def read(text: str) -> Transcript:
    return transcript_of(text.encode().splitlines(keepends=True))


def test_each_user_message_begins_a_turn() -> None:
    made = read(meta_line(1) + turn_lines("One.", tokens=10) + turn_lines("Two.", tokens=25))
    assert [(turn.tokens, turn.status) for turn in made.turns] == [(10, "completed"), (15, "completed")]
    assert [(step.kind, step.text) for step in made.turns[1].steps] == [("user", "Two."), ("assistant", "echo: Two.")]


def test_steered_input_stays_in_its_turn() -> None:
    accepted = line("codex_actors", type="input_accepted", submission_id="s", items=[])
    item = user_lines("More.").splitlines()[0][:-1] + ', "submission_id": "s"}\n'
    made = read(meta_line(1) + user_lines("One.") + accepted + item)
    assert [step.text for step in made.turns[0].steps] == ["One.", "More."]
    assert len(made.turns) == 1


def test_marked_turns_keep_all_their_input() -> None:
    begin, end = line("event_msg", type="task_started"), line("event_msg", type="task_complete", duration_ms=7)
    made = read(meta_line(1) + begin + user_lines("One.") + user_lines("More.") + end + begin + user_lines("Two."))
    assert [(len(turn.steps), turn.status, turn.duration_ms) for turn in made.turns] == [
        (2, "completed", 7),
        (1, "interrupted", 0),
    ]


def test_failed_turn_says_its_error() -> None:
    (turn,) = read(user_lines("One.") + line("event_msg", type="task_complete", error="no network")).turns
    assert (turn.status, turn.error) == ("errored", "no network")


def test_rolled_back_turns_are_marked() -> None:
    back = line("event_msg", type="thread_rolled_back", num_turns=1)
    made = read(turn_lines("One.") + turn_lines("Two.") + back + turn_lines("Three.") + back)
    assert [turn.is_rolled_back for turn in made.turns] == [False, True, True]


def test_damage_is_told_by_its_bytes() -> None:
    made = read(meta_line(1) + "{broken\n\n" + turn_lines())
    begin = len(meta_line(1))
    assert made.damage == [Damage(begin, begin + 8, 2, "no JSON")]
    assert len(made.turns) == 1


def test_fork_names_where_it_begins() -> None:
    assert read(meta_line(1, history_base={"thread_id": "other"})).inherited == "other"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KINDS = ["session_meta", "response_item", "event_msg", "compacted", "codex_actors", "other"]
TYPES = [
    "message",
    "function_call",
    "function_call_output",
    "token_count",
    "task_complete",
    "turn_aborted",
    "reasoning",
]
FIELDS = ["role", "content", "call_id", "name", "output", "info", "error", "summary", "history_base", "submission_id"]


@given(
    st.lists(
        st.builds(
            lambda kind, tag, payload: line(kind, **payload | {"type": tag}),
            st.sampled_from(KINDS),
            st.sampled_from(TYPES),
            st.dictionaries(st.sampled_from(FIELDS), JSON | st.sampled_from(["user", "1"]), max_size=5),
        ),
        max_size=8,
    )
)
def test_no_line_at_all_breaks_reading(lines: list[str]) -> None:
    made = read("".join(lines))
    assert made.lines == len(lines)
    assert made.to_wire()["damage"] == []
