"""What a tool gives back, as the text that the model reads: its value, and of too much of it the head and the tail."""

from __future__ import annotations

from pydantic_core import PydanticSerializationError, to_json

from codex_actors.tools.tool import ToolError

_PIECE_CHARS = 1 << 20


class ToolOutputError(ToolError):
    """The tool returned a value of `type_name` that is neither text nor JSON. It becomes the output of the call."""

    def __init__(self, type_name: str, problem: str) -> None:
        super().__init__(type_name, problem)
        self.type_name = type_name
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"the tool did its work, but returned a value of type {self.type_name} that is neither text nor JSON "
            f"({self.problem}); only a change of the tool can help"
        )


def render(value: object, *, limit_bytes: int) -> str:
    """A tool's value as text: text as it is, None as `""`, anything else as JSON.

    What no UTF-8 can hold (lone surrogates, as in names of undecodable files) becomes `?`; `nan` and `inf` are strings.
    Of more than `limit_bytes` of UTF-8 the first and the last half of the limit are kept, with a line between them:
    `…[12,345 bytes, 210 lines left out]…`.

    Raises:
        ToolOutputError: it is not serialisable.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return _within(str.__str__(value), limit_bytes)
    try:
        return _within(to_json(value, inf_nan_mode="strings").decode(), limit_bytes)
    except PydanticSerializationError as error:
        raise ToolOutputError(type(value).__name__, str(error)) from None


def _within(text: str, limit_bytes: int) -> str:
    if len(text) <= limit_bytes and len(whole := _encoded(text)) <= limit_bytes:
        return whole.decode()
    head_bytes = limit_bytes // 2
    tail_bytes = limit_bytes - head_bytes
    # "ignore" leaves out the halves of characters at the two cuts, and finds nothing else to ignore.
    head = _encoded(text[:head_bytes])[:head_bytes].decode("utf-8", "ignore")
    tail = _encoded(text[-tail_bytes:])[-tail_bytes:].decode("utf-8", "ignore")
    end = len(text) - len(tail)
    left_out = lines = 0
    # In pieces: a second copy of a huge text would cost its memory again, and one long call would hold the GIL.
    for start in range(len(head), end, _PIECE_CHARS):
        piece = text[start : min(start + _PIECE_CHARS, end)]
        left_out += len(_encoded(piece))
        lines += piece.count("\n")
    return around(head, tail, left_out, lines)


def around(head: str, tail: str, left_out: int, lines: int) -> str:
    """The head and the tail of a text of which so many bytes and line ends between them are left out."""
    notice = f"…[{left_out:,} bytes, {lines:,} {'line' if lines == 1 else 'lines'} left out]…"
    before = "" if not head or head.endswith("\n") else "\n"
    behind = "" if not tail or tail.startswith("\n") else "\n"
    return f"{head}{before}{notice}{behind}{tail}"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")
