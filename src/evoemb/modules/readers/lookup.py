"""The one place that makes a memory reader from its configuration."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel

from evoemb._errors import InputError
from evoemb.modules.config import MemoryConfig, ReaderName
from evoemb.modules.readers.attention import AttentionReader
from evoemb.modules.readers.base import MemoryReader
from evoemb.modules.readers.prefix import PrefixReader

_READERS: dict[ReaderName, Callable[[PreTrainedModel, MemoryConfig], MemoryReader]] = {
    "prefix": PrefixReader,
    "attention": AttentionReader,
}


def reader_for(backbone: PreTrainedModel, config: MemoryConfig) -> MemoryReader:
    """Return a fresh reader for a backbone, which does not carry the reader's adapters yet.

    Raises:
        InputError: ``segment_turns`` is more than this reader can read together.
        UnsupportedBackboneError: The reader does not fit the backbone.
    """
    reader = _READERS[config.reader](backbone, config)
    if config.segment_turns > 1 and not reader.joins_turns:
        raise InputError(
            f"segment_turns={config.segment_turns} was given, but {type(backbone).__name__} with "
            f'memory_reader="{config.reader}" reads one turn a segment: in a longer one, encoders would see later '
            "turns, and the attention reader gains nothing. Leave segment_turns out."
        )
    return reader
