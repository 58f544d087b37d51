"""Controls: the same model with a memory that is empty, another stream's, out of order, or stopped.

A gain over memory off may come from a clock: the age of what is remembered. Only a gain over the *shuffled* memory,
which has the same ages and another stream's content, shows that content is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from evoemb._errors import InputError
from evoemb.evaluation.schema import EvalStream
from evoemb.state import MemoryState
from evoemb.state.memory import StreamMemory

CONTROLS = {
    "on": "the memory as it is",
    "off": "every text is read with an empty memory",
    "shuffled": "every text is read with another stream's memory of the same age",
    "ages": "every text is read with its own memory, the turns in it in random order",
    "frozen": "the memory stops after n turns (frozen@n)",
}
"""Names that :func:`parse_control` takes, and what they are."""


@dataclass(frozen=True, slots=True)
class Control:
    """What is done to the memory.

    Args:
        kind: A name of `CONTROLS`.
        frozen_after: For ``"frozen"``: turns that are remembered.
        seed: For ``"ages"``: which random order.
    """

    kind: str = "on"
    frozen_after: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """As :func:`parse_control` reads it."""
        return f"frozen@{self.frozen_after}" if self.kind == "frozen" else self.kind


def parse_control(text: str) -> Control:
    """Read ``on``, ``off``, ``shuffled``, ``ages`` or ``frozen@N``.

    Raises:
        InputError: It is none of these.
    """
    if found := re.fullmatch(r"frozen@([1-9]\d*)", text):
        return Control("frozen", frozen_after=int(found[1]))
    if text in CONTROLS and text != "frozen":
        return Control(text)
    raise InputError(f"There is no control {text!r}. Choose among on, off, shuffled, ages and frozen@N (N turns).")


def donated_turns(streams: Sequence[EvalStream]) -> list[list[str]]:
    """For every stream, as many turns of other streams: what its shuffled memory is made from.

    Stream i is given the turns of the streams after it, in order and around, its own left out; where all others
    together are shorter, they begin anew.

    Raises:
        InputError: There is only one stream, so that there is no other to take a memory from.
    """
    if len(streams) < 2:
        raise InputError(
            "The shuffled control takes the memory of another stream, but there is only one. Evaluate two or more "
            "streams, or leave this control out."
        )
    donated = []
    for index, stream in enumerate(streams):
        wanted, step = len(stream.turns), 1
        others: list[str] = []
        while len(others) < wanted:
            if step % len(streams):
                others += streams[(index + step) % len(streams)].texts
            step += 1
        donated.append(others[:wanted])
    return donated


def permute_ages(state: MemoryState, seed: int) -> MemoryState:
    """Return a state of the same content whose turns are in a random order; ages no longer tell what came when.

    The order depends on the seed, the number of turns read and the place of the stream in the state.
    """
    num_latents, capacity = state.spec.num_latents, state.spec.capacity_latents
    return MemoryState(
        state.spec,
        [_permuted(memory, num_latents, capacity, seed + place) for place, memory in enumerate(state.snapshot())],
    )


def _permuted(memory: StreamMemory, num_latents: int, capacity_latents: int, seed: int) -> StreamMemory:
    """Shuffle whole turns of a queue ``(M, S)``; a cut oldest turn stays where it is."""
    queue = memory.queue(capacity_latents)
    whole = queue.shape[0] // num_latents
    cut = queue.shape[0] - whole * num_latents
    generator = torch.Generator().manual_seed(seed * 1_000_003 + memory.num_turns)
    order = torch.randperm(whole, generator=generator).to(queue.device)
    turns = queue[cut:].reshape(whole, num_latents, queue.shape[1])[order].flatten(0, 1)
    # Only read, never advanced: the open segment would not fit the new order.
    return replace(memory, latents=torch.cat((queue[:cut], turns)), open_turns=())
