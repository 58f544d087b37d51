"""What a model makes of turns, as rows: each turn's vector, latents and open token ids; and states from such rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from evoemb._errors import InputError, StateError
from evoemb.prompts import prompt_for
from evoemb.state import MemoryState
from evoemb.state.memory import StateSpec

Precision: TypeAlias = Literal["float16", "float32"]
PRECISIONS: tuple[Precision, ...] = ("float16", "float32")


class Generation(NamedTuple):
    """A model that turns were read with.

    Args:
        id: Number of its row; 0 before there is one.
        spec: Of its states.
        dimension: ``D``, numbers in a vector.
        precision: How vectors and latents are kept.
    """

    id: int
    spec: StateSpec
    dimension: int
    precision: Precision

    @property
    def turns_a_call(self) -> int:
        """Turns whose latents the queue surely holds after one call."""
        return max(1, self.spec.capacity_latents // self.spec.num_latents)

    @property
    def rows_a_state(self) -> int:
        """Rows that hold everything a state needs, and the state before an unanswered turn."""
        return -(-self.spec.capacity_latents // self.spec.num_latents) + self.spec.segment_turns + 1


class ReadTurn(NamedTuple):
    """What a model made of a turn, as bytes: ``vector (D,)``, ``latents (K, S)``, the turn's ids of an open segment."""

    vector: bytes
    latents: bytes
    open_ids: bytes
    num_open: int


class LatentRow(NamedTuple):
    """The part of a row that states are built from."""

    latents: bytes
    open_ids: bytes
    num_open: int


def generation_of(model: Any, precision: Precision) -> Generation:
    """Return what a model's turns would be kept as."""
    return Generation(0, model.state_spec, int(model.get_embedding_dimension() or 0), precision)


def spec_text(spec: StateSpec) -> str:
    """Return a spec as text."""
    return json.dumps(asdict(spec))


def spec_of_text(text: str) -> StateSpec:
    """Return the spec that :func:`spec_text` wrote."""
    return StateSpec(**json.loads(text))


def read_turns_on(
    model: Any, generation: Generation, states: Sequence[MemoryState], texts: Sequence[Sequence[str]]
) -> list[list[ReadTurn]]:
    """Read turns of several streams side by side into their states, and return what each turn left.

    Args:
        states: One a stream; each is advanced.

    Raises:
        InputError: A vector or latents cannot be kept in the store's precision.
    """
    opened = [_OpenSegment(model, generation.spec, own, state) for own, state in zip(texts, states, strict=True)]
    found: list[list[ReadTurn]] = [[] for _ in texts]
    for start in range(0, max(len(own) for own in texts), generation.turns_a_call):
        pieces = {n: list(own[start : start + generation.turns_a_call]) for n, own in enumerate(texts)}
        active = [n for n, piece in pieces.items() if piece]
        joined = MemoryState.stack([states[n] for n in active])
        vectors = model.encode_document(
            [pieces[n] for n in active], stateful=True, state=joined, show_progress_bar=False
        )
        for place, n in enumerate(active):
            after, first = joined[place], int(states[n].num_turns)  # type: ignore[arg-type]
            for turn, vector in enumerate(np.asarray(vectors[place])):
                latents = after.turn_latents(first + turn).float().cpu().numpy()
                found[n].append(
                    ReadTurn(
                        _bytes_of(vector, generation.precision, "vector"),
                        _bytes_of(latents, generation.precision, "latents"),
                        *opened[n].take(start + turn),
                    )
                )
            states[n].advance(states[n].snapshot(), after.snapshot())
    if any(one.after != state.open_turns[0] for one, state in zip(opened, states, strict=True)):
        raise StateError("The model keeps another open segment than its packing says. Report this as a defect.")
    return found


def state_of(
    generation: Generation,
    rows: Sequence[LatentRow],
    num_turns: int,
    unanswered: str | None = None,
    before: MemoryState | None = None,
) -> MemoryState:
    """Build the state after a turn.

    Args:
        rows: Of the turns up to it, oldest first, as many as there are or ``generation.rows_a_state``.
        num_turns: Turns that were read in all.
        unanswered: What the turn says, while its answer may come.
        before: With it, the state before that turn.
    """
    spec = generation.spec
    num_open = rows[-1].num_open if rows else 0
    latents = [
        torch.from_numpy(_array_of(row.latents, generation.precision).astype(np.float32)).reshape(
            spec.num_latents, spec.latent_size
        )
        for row in rows
    ]
    ids = [np.frombuffer(row.open_ids, dtype="<i4").tolist() for row in rows[len(rows) - num_open :]]
    return MemoryState.of_turns(
        spec, latents, num_turns=num_turns, open_turns=ids, unanswered=unanswered, before=before
    )


def unit_vectors(rows: Sequence[bytes], generation: Generation) -> NDArray[np.float32]:
    """Return stored vectors ``(n, D)``, each scaled to length 1.

    Raises:
        StateError: They have another size than the generation says, or hold NaN.
    """
    size = generation.dimension * np.dtype(generation.precision).itemsize
    if any(len(row) != size for row in rows):
        raise StateError(f"A stored vector has another size than {generation.dimension}: the database was changed.")
    joined = _array_of(b"".join(rows), generation.precision).reshape(-1, generation.dimension).astype(np.float32)
    return to_unit(joined)


def to_unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return vectors ``(n, D)`` scaled to length 1; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: NDArray[np.float32] = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return found


class _OpenSegment:
    """The segment that is open after each turn, as the model's packing forms it."""

    def __init__(self, model: Any, spec: StateSpec, texts: Sequence[str], state: MemoryState) -> None:
        self._spec = spec
        self.after: tuple[tuple[int, ...], ...] = state.open_turns[0]
        self._ids: list[list[int]] = []
        if spec.segment_turns > 1:
            self._ids = model[0].token_ids(list(texts), prompt=prompt_for(model, "document"))

    def take(self, turn: int) -> tuple[bytes, int]:
        """Add a turn; return its ids as bytes, while they are needed, and how many turns are open after it."""
        if self._spec.segment_turns <= 1:
            return b"", 0
        ids, limit = tuple(self._ids[turn]), self._spec.segment_tokens
        tokens = sum(len(one) for one in self.after)
        if self.after and (len(self.after) >= self._spec.segment_turns or tokens + len(ids) > limit):
            self.after, tokens = (), 0
        self.after = (*self.after, ids)
        if len(self.after) >= self._spec.segment_turns or tokens + len(ids) >= limit:
            self.after = ()
            return b"", 0
        return np.asarray(ids, dtype="<i4").tobytes(), len(self.after)


def _bytes_of(values: NDArray[Any], precision: Precision, what: str) -> bytes:
    with np.errstate(over="ignore"):
        kept = np.asarray(values).astype(_dtype(precision))
    if not np.isfinite(kept).all():
        reason = "is NaN or infinite" if not np.isfinite(values).all() else f"is too large for {precision}"
        raise InputError(
            f"A turn's {what} {reason}, so nothing was added. "
            + ("Check the model." if "NaN" in reason else 'Make the store with precision="float32".')
        )
    return kept.tobytes()


def _array_of(content: bytes, precision: Precision) -> NDArray[Any]:
    return np.frombuffer(content, dtype=_dtype(precision))


def _dtype(precision: Precision) -> str:
    return {"float16": "<f2", "float32": "<f4"}[precision]
