"""The one way from a rollout to the history that the model must see, and to all else that a thread goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codex_actors.errors import RolloutError
from codex_actors.protocol.history import Compacted, Replayed
from codex_actors.protocol.status import AgentStatus
from codex_actors.rollout.chain import segments_of
from codex_actors.rollout.encode import crc_holds
from codex_actors.rollout.lines import FileLines, MemoryLines, head_of
from codex_actors.rollout.payloads import payload_in
from codex_actors.rollout.reader import thread_id_of_path, warn_of_skipped_lines
from codex_actors.rollout.scan import Scan

SKIP_BYTES = 16 << 20
"""So much in front of a compaction is worth a search for it."""


def load_rollout(path: Path) -> Replayed:
    """What a thread needs to go on in `path`: with the parts of other files that its history begins with.

    Lines that are broken or that do not fit are skipped, as `get_rollout_history` does. In a large file those in front of
    the newest compaction are not even looked at.

    Raises:
        RolloutError: a file is missing, not readable, empty, not text, or has no meta with a thread id.
    """
    segments = segments_of(path)
    with FileLines(segments) as source:
        own = source.start_of(len(segments) - 1)
        scan = Scan(source, own)
        start = _newest_replacement(source)
        if start > 0:
            scan.take_before(source, start)
        scan.take(source.lines(start))
        if scan.is_blank:
            raise RolloutError(path, "empty session file")
        if scan.is_binary():
            raise RolloutError(path, "not a rollout file (its bytes are not UTF-8 text)")
        state = None if scan.meta is None else scan.replayed(start, source.size, source.whole_segments())
        if scan.skipped:
            warn_of_skipped_lines(path, source.numbers_of(scan.skipped))
        if state is None:
            raise RolloutError(path, "failed to parse thread ID from rollout file")
        named = thread_id_of_path(path)
        if scan.skipped and state.meta is not None and named not in (None, state.meta.id):
            raise RolloutError(path, f"its own meta line is damaged; the next one is of thread {state.meta.id}")
        return state


def _newest_replacement(source: FileLines) -> int:
    """Where the newest compaction stands that leaves nothing of what is before it, if that is much; or 0."""
    if source.size < SKIP_BYTES:
        return 0
    for data, address in source.blocks_before(source.size):
        at = len(data)
        while (at := data.rfind(b'"compacted"', 0, at)) >= 0:
            begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
            line = data[begin : end if end >= 0 else len(data)]
            head = head_of(line)
            if head is not None and head.type == b"compacted" and crc_holds(line) is not False:
                compacted = payload_in(line, Compacted)
                if compacted is not None and compacted.replacement_history is not None:
                    return address + begin if address + begin >= SKIP_BYTES else 0
            at = begin
    return 0


def replayed_lines(lines: Sequence[bytes]) -> Replayed:
    """The same of whole lines that are in memory, with their newlines or without."""
    scan = Scan(MemoryLines(lines))
    scan.take(scan.source.lines())
    return scan.replayed(0, len(lines))


def status_of(lines: Sequence[bytes]) -> AgentStatus:
    """How the newest turn of these ended: the `status` of `replayed_lines`, for a fifth of the time."""
    scan = Scan(MemoryLines(lines))
    scan.take(scan.source.lines())
    return scan.status(0)
