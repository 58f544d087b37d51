"""What one stream has left in memory, as a value: never changed in place, cheap to share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from evoemb._errors import InputError, StateError
from evoemb.state.live import KEPT_BYTES, LiveCache


@dataclass(frozen=True, slots=True)
class StateSpec:
    """What a state belongs to. Two states mix only if their specs are equal.

    Args:
        model_id: Hub id or folder name of the model, for messages; not compared.
        revision: Hub commit of the model, for messages; not compared.
        fingerprint: Digest of the model's weights (see :func:`evoemb.modules.fingerprint.fingerprint`).
        reader: How the backbone reads the memory, ``"prefix"`` or ``"attention"``.
        num_latents: ``K``, latents a turn.
        capacity_latents: ``C``, latents the queue keeps.
        latent_size: ``S``, numbers in one latent.
        segment_turns: Packing policy: turns a segment.
        segment_tokens: Packing policy: tokens a segment.
    """

    model_id: str
    revision: str
    fingerprint: str
    reader: str
    num_latents: int
    capacity_latents: int
    latent_size: int
    segment_turns: int
    segment_tokens: int

    def differences(self, other: StateSpec) -> list[str]:
        """Say in words where two specs differ: ``"num_latents 4 against 16"``; empty if states may mix."""
        compared = [one.name for one in fields(self) if one.name not in ("model_id", "revision")]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in compared]
        return [f"{name} {mine!r} against {theirs!r}" for name, mine, theirs in pairs if mine != theirs]

    def check(self, other: StateSpec) -> None:
        """Refuse a state that does not fit: ``other`` is its spec, this one the model's.

        Raises:
            StateError: It was made with other weights, sizes or packing.
        """
        if differences := self.differences(other):
            raise StateError(
                f"This state was made by {other.model_id!r} and does not fit {self.model_id!r}: "
                f"{'; '.join(differences)} (model against state). Load the model that made it, or read the stream "
                "again into model.new_state()."
            )


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The newest turn of a stream, made of messages, while its answer may still come.

    Args:
        said: The lines of its messages so far that say something, as the model reads them.
        before: The memory before this turn. From there the turn is read again as a whole once its answer has come.
    """

    said: str
    before: StreamMemory


@dataclass(frozen=True, slots=True)
class StreamMemory:
    """The memory of one stream after some turns.

    Args:
        latents: ``(M, S)``, oldest first. The queue as it was when the open segment began (at most ``C`` latents),
            followed by the latents of the open segment's turns.
        num_turns: Turns ever read; keeps growing after old latents have left the queue.
        open_turns: Token ids of the turns in the open segment, oldest first. Later turns of a segment see the raw
            earlier ones, so they are kept until the segment is full. Empty where a segment is one turn.
        live: Where to keep what makes the next step cheap; None keeps nothing.
        unanswered: The newest turn, if it was read and its answer may still come; None otherwise.
    """

    latents: Tensor
    num_turns: int = 0
    open_turns: tuple[tuple[int, ...], ...] = ()
    unanswered: Unanswered | None = None
    live: LiveCache | None = field(default=None, compare=False, repr=False)

    @classmethod
    def empty(cls, latent_size: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> StreamMemory:
        """Return the memory of a stream of which nothing has been read."""
        return cls(torch.zeros(0, latent_size, dtype=dtype, device=device))

    def queue(self, capacity_latents: int) -> Tensor:
        """Return the latents a text sees now: the newest ``min(M, C)``, oldest first, ``(<=C, S)``."""
        return self.latents[max(0, self.latents.shape[0] - capacity_latents) :]

    def before_open_segment(self, num_latents: int) -> Tensor:
        """Return the queue as it was when the open segment began, ``(<=C, S)``."""
        return self.latents[: self.latents.shape[0] - len(self.open_turns) * num_latents]

    def turn_latents(self, turn: int, num_latents: int) -> Tensor:
        """Return the latents ``(K, S)`` that turn ``turn``, counted from the stream's beginning, left here.

        Raises:
            InputError: The turn was not read yet, or its latents have left the queue.
        """
        end = self.latents.shape[0] - (self.num_turns - 1 - turn) * num_latents
        if not 0 <= turn < self.num_turns or end < num_latents:
            first = self.num_turns - self.latents.shape[0] // num_latents
            raise InputError(
                f"turn_latents({turn}) was asked for, but the queue holds those of the turns {first} to "
                f"{self.num_turns - 1}. Ask for one of these, as soon as the turn was read."
            )
        return self.latents[end - num_latents : end].clone()

    @classmethod
    def of_turns(
        cls, spec: StateSpec, latents: Sequence[Tensor], num_turns: int, open_turns: Sequence[Sequence[int]] = ()
    ) -> StreamMemory:
        """Build a memory from what its last turns left; see :meth:`evoemb.MemoryState.of_turns`.

        Raises:
            StateError: The parts contradict each other or the spec.
        """
        if type(num_turns) is not int or num_turns < 0:
            raise StateError(f"num_turns={num_turns!r:.40} was given. Pass how many turns were read, 0 or more.")
        size = (spec.num_latents, spec.latent_size)
        for index, one in enumerate(latents):
            if tuple(one.shape) != size:
                raise StateError(f"latents[{index}] has the shape {tuple(one.shape)}, expected {size}.")
        kept = spec.capacity_latents + len(open_turns) * spec.num_latents
        needed = min(num_turns * spec.num_latents, kept)
        if len(latents) * spec.num_latents < needed or len(open_turns) > num_turns:
            raise StateError(
                f"{len(latents)} turns' latents were given, but a state after {num_turns} turns holds {needed} latents "
                f"of {spec.num_latents} a turn. Pass those of the last turns."
            )
        if not latents:
            return cls.empty(spec.latent_size, dtype=torch.float32)
        joined = torch.cat(list(latents))
        opened = tuple(tuple(int(token) for token in turn) for turn in open_turns)
        memory = cls(joined[joined.shape[0] - needed :].detach().clone(), num_turns, opened)
        if problem := memory.problem(spec):
            raise StateError(f"These turns make no state: it {problem}. Pass what turn_latents and open_turns gave.")
        return memory

    def problem(self, spec: StateSpec) -> str | None:
        """Return in words what no memory of this spec can hold, ``"holds latents that are NaN"``; None if nothing."""
        latents, open_latents = self.latents, len(self.open_turns) * spec.num_latents
        if not latents.is_floating_point():
            return f"holds latents of type {latents.dtype}, expected a floating-point type"
        if not open_latents <= latents.shape[0] <= spec.capacity_latents + open_latents:
            return f"holds {latents.shape[0]} latents, more than its capacity of {spec.capacity_latents} allows"
        if len(self.open_turns) >= max(spec.segment_turns, 1) or any(i < 0 for turn in self.open_turns for i in turn):
            return "holds an open segment that does not fit its packing"
        if self.num_turns * spec.num_latents < latents.shape[0]:
            return f"claims {self.num_turns} turns, too few for its {latents.shape[0]} latents"
        if not bool(torch.isfinite(latents).all()):
            return "holds latents that are NaN or infinite"
        return None

    @property
    def nbytes(self) -> int:
        """Bytes held: latents, eight for every token id of the open segment, and what an unanswered turn keeps."""
        own = self.latents.nbytes + 8 * sum(len(turn) for turn in self.open_turns)
        if self.unanswered is None:
            return own
        return own + self.unanswered.before.nbytes + len(self.unanswered.said.encode())

    @property
    def kept_nbytes(self) -> int:
        """Bytes kept beside the value so that the next step is cheap."""
        before = 0 if self.unanswered is None else self.unanswered.before.kept_nbytes
        return before + (0 if self.live is None else self.live.nbytes)

    def trim(self) -> None:
        """Let go of what is kept beside the value."""
        if self.live is not None:
            self.live.trim()
        if self.unanswered is not None:
            self.unanswered.before.trim()

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> StreamMemory:
        """Return the same memory on ``device`` (and in ``dtype``, if given); itself if it is there already."""
        moved = self.latents.to(device=device, dtype=dtype or self.latents.dtype)
        if moved is self.latents:
            return self
        return self._with_before(lambda before: before.to(device, dtype), latents=moved, live=None)

    def copy(self) -> StreamMemory:
        """Return a memory that shares no storage with this one; what can be computed again is left behind."""
        return self._with_before(StreamMemory.copy, latents=self.latents.detach().clone(), live=None)

    def compact(self) -> StreamMemory:
        """Return the same memory on storage of its own size, with what makes its next step cheap."""
        return replace(self, latents=self.latents.detach().clone())

    def without_live(self) -> StreamMemory:
        """Return the same memory with nothing kept beside it."""
        return self._with_before(StreamMemory.without_live, live=None)

    def _with_before(self, change: Callable[[StreamMemory], StreamMemory], **values: Any) -> StreamMemory:
        """Return this memory with other values, and with ``change`` done to the memory before an unanswered turn."""
        unanswered = self.unanswered and replace(self.unanswered, before=change(self.unanswered.before))
        return replace(self, unanswered=unanswered, **values)

    def with_unanswered(self, said: str, before: StreamMemory) -> StreamMemory:
        """Return the same memory, whose newest turn waits for its answer.

        Args:
            said: What the turn's messages say so far.
            before: The memory before that turn.
        """
        before = replace(before, unanswered=None)
        if before.kept_nbytes + self.kept_nbytes > KEPT_BYTES:  # both together have the bound of one
            before = before.without_live()
        return replace(self, unanswered=Unanswered(said, before))

    def kept_live(self) -> StreamMemory:
        """Return the same memory with a place for what makes its next step cheap."""
        return self if self.live is not None else replace(self, live=LiveCache())
