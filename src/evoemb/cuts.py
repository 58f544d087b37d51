"""Texts longer than the model's window: cut with a warning, or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from evoemb._errors import InputError
from evoemb.modules.stateful_transformer import StatefulTransformer

logger = logging.getLogger(__name__)


class CutTexts:
    """Finds texts of one call that the tokenizer cut, warns of the first one, and counts the others.

    Args:
        transformer: Knows the window and how long a text would be.
        truncate: Whether such texts may be cut; False refuses them.
        every: Whether to count them all; False looks for the first one only.
    """

    def __init__(self, transformer: StatefulTransformer, *, truncate: bool = True, every: bool = True) -> None:
        self._transformer = transformer
        self._truncate = truncate
        self._every = every
        self._count = 0

    def check(
        self,
        texts: Sequence[str],
        ids: Sequence[Sequence[int]],
        name_of: Callable[[int], str],
        prompt: str | None = None,
    ) -> None:
        """Warn of texts that were cut to the window, or refuse them.

        Args:
            texts: What was tokenized.
            ids: The token ids of each text as the model reads them.
            name_of: What a message calls a text, by its place in ``texts``.
            prompt: What stood before every text.

        Raises:
            InputError: A text is too long, and texts may not be cut.
        """
        limit = self._transformer.max_seq_length
        if not limit or (self._count and not self._every):
            return
        for place in (place for place, row in enumerate(ids) if len(row) >= limit):
            length = self._transformer.full_length(f"{prompt or ''}{texts[place]}")
            if length <= limit:
                continue
            said = f"{name_of(place)} has {length} tokens, but the model reads {limit}."
            if not self._truncate:
                raise InputError(f"{said} Split the text, raise model.max_seq_length, or pass truncate=True to cut it.")
            if not self._count:
                logger.warning("%s The rest was cut. Split long texts, or raise model.max_seq_length.", said)
            self._count += 1

    def report(self) -> None:
        """Log how many texts were cut, if there were several."""
        if self._count > 1:
            logger.info("%d texts were cut in this call.", self._count)
        self._count = 0
