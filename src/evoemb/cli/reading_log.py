"""Which turns a state file has read, so that nobody reads them a second time by mistake."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evoemb._errors import InputError, StateError

_NOTE = "evoemb.cli.read"
_MAX_CALLS = 1000  # of older calls nothing is known; so the file stays small


@dataclass(frozen=True, slots=True)
class ReadingLog:
    """What each call has read: how many turns, and a digest of them; oldest call first."""

    calls: tuple[tuple[int, str], ...] = ()

    @classmethod
    def of_notes(cls, notes: Mapping[str, str]) -> ReadingLog:
        """Return the log that was noted with a state; an empty one for a state from elsewhere.

        Raises:
            StateError: The note is damaged.
        """
        try:
            return cls(tuple((int(count), str(digest)) for count, digest in json.loads(notes.get(_NOTE, "[]"))))
        except (ValueError, TypeError) as error:
            raise StateError(
                f"What the state says of the turns it has read is damaged ({error}). Load it in Python and save it "
                "anew."
            ) from error

    @property
    def notes(self) -> dict[str, str]:
        """The log as it is noted with a state."""
        return {_NOTE: json.dumps(self.calls)}

    def with_turns(self, turns: Sequence[str]) -> ReadingLog:
        """Return the log after one more call."""
        *_, digest = _digests(turns)
        return ReadingLog((*self.calls, (len(turns), digest))[-_MAX_CALLS:])

    def check(self, turns: Sequence[str], source: str, state_path: str) -> None:
        """Refuse turns that are, or begin with, those of an earlier call.

        Raises:
            InputError: They were read before.
        """
        digests = list(_digests(turns))
        read = [count for count, digest in self.calls if count <= len(turns) and digests[count - 1] == digest]
        # One turn at the beginning, such as a greeting, may be the same by chance.
        known = max((count for count in read if count > 1 or len(turns) == 1), default=0)
        if not known:
            return
        which = "these turns were" if known == len(turns) else f"the first {known} of these {len(turns)} turns were"
        raise InputError(
            f"{source}: {which} already read into {state_path}. Read again, they would count as newer than all that "
            "came after them. Give only new turns; to ask more about old ones, leave --state out, or ask all questions "
            "in one call; to read them a second time all the same, pass --again."
        )


def _digests(turns: Sequence[str]) -> Iterator[str]:
    """For every number of turns, from one to all, yield the digest of so many."""
    digest = hashlib.sha256()
    for turn in turns:
        text = turn.encode()
        digest.update(b"%d " % len(text) + text)
        yield digest.hexdigest()[:32]
