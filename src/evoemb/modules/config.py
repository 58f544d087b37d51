"""How the memory of a model is built: every choice, JSON-plain, saved with the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from evoemb._errors import InputError

ReaderName = Literal["prefix", "attention"]
MemoryInit = Literal["gated", "paper"]
MEMORY_INITS: tuple[MemoryInit, ...] = ("gated", "paper")


class _Rules(NamedTuple):
    """What the choices of a memory may be with one reader, and what they are where nobody chooses."""

    inits: tuple[MemoryInit, ...]
    adapts_reading: bool
    for_decoders: dict[str, Any]
    for_encoders: dict[str, Any]


_SMALL = {"num_latents": 4, "capacity_latents": 128, "lora_rank": 16, "lora_alpha": 32.0, "segment_turns": 1}
_BESIDE = {**_SMALL, "adapted_reading": True}
_RULES: dict[ReaderName, _Rules] = {
    "prefix": _Rules(MEMORY_INITS, False, for_decoders={}, for_encoders=_SMALL),
    "attention": _Rules(("gated",), True, for_decoders=_BESIDE, for_encoders=_BESIDE),
}
READERS: tuple[ReaderName, ...] = tuple(_RULES)

# Far above what is of use, and low enough that a damaged configuration is refused before memory is taken for it.
_MOST = {
    "num_latents": 2**16,
    "capacity_latents": 2**24,
    "segment_turns": 2**20,
    "segment_tokens": 2**24,
    "lora_rank": 2**14,
    "memory_layers": 2**10,
}


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Choices that make a backbone evolvable.

    Args:
        reader: ``"prefix"``: latents are input tokens before the turn. ``"attention"``: the top layers attend to them.
        num_latents: ``K``, latents a turn.
        capacity_latents: ``C``, latents the queue keeps.
        segment_turns: Turns that one memory forward reads together at most.
        segment_tokens: Tokens that one memory forward reads together at most.
        init: ``"gated"``: an untrained memory hardly moves an embedding. ``"paper"``: the paper's own stack, with
            identity-initialised projections and no gate (prefix reader only).
        memory_layers: Layers, from the top, that attend to the queue (attention reader only); None means half of them.
        lora_rank: Rank of both adapters.
        lora_alpha: Scale of both adapters; the update is multiplied by ``lora_alpha / lora_rank``.
        lora_dropout: Dropout before both adapters in training.
        adapted_reading: Texts that see a memory run under the memory adapter too (attention reader only). With an empty
            memory they never do: there the model is its backbone. True for a fresh attention reader, which learns
            faster with it; models saved before there was the choice have False.
        gate_bias: Initial bias on the attention to memory (natural logarithm); None leaves it to the reader.
        end_of_text_id: Token id that ends every text; None tokenizes as the base model does.

    Source: EvoEmbedding (arXiv 2606.21649) for K 16, C 512, rank 64, alpha 128, 16 turns and 2048 tokens a segment.
    """

    reader: ReaderName = "prefix"
    num_latents: int = 16
    capacity_latents: int = 512
    segment_turns: int = 16
    segment_tokens: int = 2048
    init: MemoryInit = "gated"
    memory_layers: int | None = None
    lora_rank: int = 64
    lora_alpha: float = 128.0
    lora_dropout: float = 0.1
    adapted_reading: bool = False
    gate_bias: float | None = None
    end_of_text_id: int | None = None

    def __post_init__(self) -> None:
        """Check every value at the door."""
        if self.reader not in READERS:
            raise InputError(f"memory_reader={self.reader!r} is not known. Use one of {', '.join(READERS)}.")
        if self.init not in MEMORY_INITS:
            raise InputError(f"init={self.init!r} is not known. Use one of {', '.join(MEMORY_INITS)}.")
        rules = _RULES[self.reader]
        if self.init not in rules.inits:
            takes = next(name for name in READERS if self.init in _RULES[name].inits)
            raise InputError(f'init="{self.init}" describes the {takes} reader. Use memory_reader="{takes}" with it.')
        if self.adapted_reading and not rules.adapts_reading:
            takes = next(name for name in READERS if _RULES[name].adapts_reading)
            raise InputError(
                f"adapted_reading={self.adapted_reading!r} was given for the {self.reader} reader. Use "
                f'memory_reader="{takes}" with it.'
            )
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
                raise InputError(f"{name}={value!r:.40} was given. Use a whole number from 1 to {most}.")
        for name in ("lora_alpha", "lora_dropout", "gate_bias"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
                raise InputError(f"{name}={value!r:.40} was given. Use a number.")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"lora_dropout={self.lora_dropout!r} was given. Use a number from 0 to less than 1.")
        if self.capacity_latents < self.num_latents:
            raise InputError(
                f"capacity_latents={self.capacity_latents} is less than num_latents={self.num_latents}. "
                "The queue must keep at least the latents of one turn."
            )

    @classmethod
    def for_backbone(cls, *, causal: bool, **choices: Any) -> MemoryConfig:
        """Return the defaults for a decoder (``causal``) or an encoder, with ``choices`` in their place.

        Raises:
            InputError: A name in ``choices`` is not a field of this class.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(choices) - known):
            raise InputError(f"memory_kwargs names {', '.join(unknown)}. Known names are {', '.join(sorted(known))}.")
        given = {name: value for name, value in choices.items() if value is not None}
        reader = given.get("reader", "prefix" if causal else "attention")
        plain = cls(reader=reader)  # refuses an unknown one
        defaults = _RULES[reader].for_decoders if causal else _RULES[reader].for_encoders
        return replace(plain, **{**defaults, **given})

    def to_dict(self) -> dict[str, Any]:
        """Return the choices as JSON-plain values; ``MemoryConfig(**config.to_dict()) == config``."""
        return asdict(self)
