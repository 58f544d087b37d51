"""The memory state that callers hold: passed to ``encode`` explicitly, advanced all or nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from evoemb._errors import StateError
from evoemb.state.file import from_bytes, read_state, to_bytes, write_state
from evoemb.state.memory import StateSpec, StreamMemory


class MemoryState:
    """What a model remembers of one or several streams.

    A state is a handle to a value. ``model.encode(turns, stateful=True, state=state)`` computes a new value and swaps
    it in at the end, so a call that fails leaves the state as it was. ``encode(..., state=state)`` without
    ``stateful=True`` only reads it. Make one with ``model.new_state()`` or :meth:`load`.

    Its size is bounded: the queue's ``C`` latents a stream and, where the model reads several turns together, the
    token ids and latents of the segment that is still open. While a turn waits for its answer (see :attr:`unanswered`),
    the memory before it is kept beside it.
    """

    def __init__(self, spec: StateSpec, memories: Sequence[StreamMemory]) -> None:
        if not memories:
            raise StateError("A state needs at least one stream, but none was given. Use model.new_state().")
        self._spec = spec
        self._memories = tuple(memory.kept_live() for memory in memories)
        self._lock = threading.Lock()

    @property
    def spec(self) -> StateSpec:
        """What the state belongs to: model, reader, sizes and packing."""
        return self._spec

    @property
    def batch_size(self) -> int:
        """Number of streams."""
        return len(self._memories)

    @property
    def num_turns(self) -> int | tuple[int, ...]:
        """Turns ever read: a number for one stream, one number a stream for several."""
        return _single_or_all([memory.num_turns for memory in self._memories])

    @property
    def num_latents(self) -> int | tuple[int, ...]:
        """Latents in the queue now, at most ``C``: a number for one stream, one number a stream for several."""
        return _single_or_all([latents.shape[0] for latents in self.latents])

    @property
    def latents(self) -> list[Tensor]:
        """The queue of each stream as it would be read now, ``(<=C, S)``, oldest latent first."""
        return [memory.queue(self._spec.capacity_latents) for memory in self._memories]

    @property
    def unanswered(self) -> str | tuple[str | None, ...] | None:
        """What the newest turn says, ``"User: ..."``, while its answer may still come; else None.

        One for one stream, one a stream for several. If the next call begins with an assistant message, that turn is
        read again with its answer, and the first vector of that call takes the place of the turn's former one.
        """
        waiting = [memory.unanswered for memory in self._memories]
        found = [None if turn is None else turn.said for turn in waiting]
        return found[0] if len(found) == 1 else tuple(found)

    @property
    def nbytes(self) -> int:
        """Bytes held for all streams."""
        return sum(memory.nbytes for memory in self._memories)

    @property
    def cache_nbytes(self) -> int:
        """Bytes kept beside the state so that the next step is cheap; never saved, see :meth:`trim`."""
        return sum(memory.kept_nbytes for memory in self._memories)

    @property
    def device(self) -> torch.device:
        """Where the latents lie."""
        return self._memories[0].latents.device

    def __len__(self) -> int:
        return len(self._memories)

    def __getitem__(self, index: int | slice) -> MemoryState:
        """Return one stream, or a slice of them, as a state of its own; changing either leaves the other as it is."""
        chosen = self._memories[index] if isinstance(index, slice) else (self._memories[index],)
        return MemoryState(self._spec, chosen)

    def __repr__(self) -> str:
        return (
            f"MemoryState(batch_size={self.batch_size}, num_turns={self.num_turns}, num_latents={self.num_latents}, "
            f"nbytes={self.nbytes}, model={self._spec.model_id!r})"
        )

    def __reduce__(self) -> tuple[type[MemoryState], tuple[StateSpec, tuple[StreamMemory, ...]]]:
        """Copy and pickle the value without the lock, so that states travel between processes."""
        return type(self), (self._spec, tuple(memory.without_live() for memory in self._memories))

    def clone(self) -> MemoryState:
        """Return an independent copy that shares no storage."""
        return MemoryState(self._spec, [memory.copy() for memory in self._memories])

    def reset(self) -> None:
        """Forget everything that was read; the number of streams stays."""
        with self._lock:
            self._memories = tuple(
                StreamMemory.empty(
                    self._spec.latent_size, dtype=memory.latents.dtype, device=memory.latents.device
                ).kept_live()
                for memory in self._memories
            )

    def to(self, device: torch.device | str) -> MemoryState:
        """Move the latents to ``device``, in place like ``torch.nn.Module.to``; returns the state itself."""
        with self._lock:
            self._memories = tuple(memory.to(device).kept_live() for memory in self._memories)
        return self

    def trim(self) -> None:
        """Let go of what was kept to make the next step cheap. Results stay the same; the next step computes it again.

        What is kept are keys and values of the queue and of the open segment, up to 256 MiB a stream.
        """
        for memory in self._memories:
            memory.trim()

    @classmethod
    def stack(cls, states: Sequence[MemoryState]) -> MemoryState:
        """Join the streams of several states of one model into one state, in order.

        Raises:
            StateError: No state was given, or they belong to different models or packings.
        """
        if not states:
            raise StateError("stack needs at least one state, but none was given. Pass a list of MemoryState.")
        first = states[0]
        for index, state in enumerate(states):
            if differences := first._spec.differences(state._spec):
                raise StateError(
                    f"States 0 and {index} belong to different models: {'; '.join(differences)}. "
                    "Stack only states of one model."
                )
        return cls(first._spec, [memory for state in states for memory in state._memories])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a safetensors file, atomically: a crash leaves the old file or the new one."""
        with self._lock:
            memories = self._memories
        write_state(path, self._spec, memories)

    def to_bytes(self) -> bytes:
        """Return the state as :meth:`save` writes it, for a database or a message."""
        return to_bytes(self._spec, self._memories)

    @classmethod
    def from_bytes(cls, content: bytes) -> MemoryState:
        """Read a state from the bytes of :meth:`to_bytes`.

        Raises:
            StateError: They are damaged, of another format, or hold NaN.
        """
        saved = from_bytes(content)
        return cls(saved.spec, saved.memories)

    def turn_latents(self, turn: int) -> Tensor:
        """Return what one turn left in the queue of a state of one stream, ``(K, S)``.

        Args:
            turn: Its number, from 0 at the stream's beginning.

        Raises:
            StateError: The state holds several streams.
            InputError: The turn was not read yet, or its latents have left the queue.
        """
        if len(self._memories) != 1:
            raise StateError(f"This state holds {len(self._memories)} streams. Ask one of them: state[i].")
        return self._memories[0].turn_latents(turn, self._spec.num_latents)

    @classmethod
    def of_turns(
        cls,
        spec: StateSpec,
        latents: Sequence[Tensor],
        *,
        num_turns: int,
        open_turns: Sequence[Sequence[int]] = (),
        unanswered: str | None = None,
        before: MemoryState | None = None,
    ) -> MemoryState:
        """Build the state after some turn of a stream from what its last turns left, exactly.

        Args:
            spec: Of the model (``model.state_spec``).
            latents: :meth:`turn_latents` of the last turns, oldest first, ``(K, S)`` each: as many as there are, or
                the last ``C / K`` and those of the open segment. More are cut.
            num_turns: Turns read in all.
            open_turns: Token ids of the turns of the segment that is still open (``state.open_turns``); none where a
                segment is one turn.
            unanswered: What the last turn says, while its answer may still come (``state.unanswered``).
            before: With ``unanswered``: the state before that turn, from which it is read again with its answer.

        Raises:
            StateError: The parts contradict each other or the spec.
        """
        memory = StreamMemory.of_turns(spec, latents, num_turns, open_turns)
        if (unanswered is None) is not (before is None):
            raise StateError("An unanswered turn and the state before it belong together. Pass both, or neither.")
        if unanswered is not None and before is not None:
            spec.check(before.spec)
            if before.batch_size != 1 or before.num_turns != num_turns - 1:
                raise StateError(
                    f"The state before the unanswered turn holds {before.batch_size} streams and {before.num_turns} "
                    f"turns, expected one stream and {num_turns - 1} turns. Pass the state before the last turn."
                )
            memory = memory.with_unanswered(unanswered, before.snapshot()[0])
        return cls(spec, [memory])

    @property
    def open_turns(self) -> list[tuple[tuple[int, ...], ...]]:
        """Token ids of the turns in each stream's open segment; empty where a segment is one turn."""
        return [memory.open_turns for memory in self._memories]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MemoryState:
        """Read a state that :meth:`save` wrote. Whether it fits a model is checked when it is used.

        Raises:
            FileNotFoundError: There is no such file.
            StateError: The file is a pickle, damaged, of another format, or holds NaN.
        """
        saved = read_state(path)
        return cls(saved.spec, saved.memories)

    def snapshot(self) -> tuple[StreamMemory, ...]:
        """Return the current value; it never changes."""
        return self._memories

    def advance(self, before: tuple[StreamMemory, ...], after: Sequence[StreamMemory]) -> None:
        """Swap in a new value, if the state still holds the value ``before`` that it was computed from.

        Raises:
            StateError: Another call advanced the state meanwhile; nothing is changed.
        """
        with self._lock:
            if self._memories is not before:
                raise StateError(
                    "The state was advanced by another call while this one was running, so this call's turns were not "
                    "added. Give each concurrent reader its own state, or retry this call."
                )
            self._memories = tuple(memory.kept_live() for memory in after)


def _single_or_all(values: list[int]) -> int | tuple[int, ...]:
    return values[0] if len(values) == 1 else tuple(values)


def checked_state(state: object, spec: StateSpec) -> MemoryState:
    """Return a state that was given, if it is one and fits a model.

    Args:
        spec: The model's.

    Raises:
        StateError: It is no state, or another model's.
    """
    if not isinstance(state, MemoryState):
        raise StateError(f"state is {type(state).__name__}, expected MemoryState. Make one with model.new_state().")
    spec.check(state.spec)
    return state


def one_stream(state: object, spec: StateSpec) -> MemoryState:
    """Return a state that was given, if it fits a model and holds one stream.

    Raises:
        StateError: As :func:`checked_state`; also for a state of several streams.
    """
    checked = checked_state(state, spec)
    if checked.batch_size != 1:
        raise StateError(f"This call takes one stream, but the state holds {checked.batch_size}. Pass state[i].")
    return checked
