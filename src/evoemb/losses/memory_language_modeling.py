"""The answer from the memory: next-token loss through the frozen base model, adapters off."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from evoemb._errors import InputError
from evoemb.losses.base import StreamLoss
from evoemb.modules.language_head import LanguageHead
from evoemb.streaming import whole


class MemoryLanguageModelingLoss(StreamLoss):
    """Make the latents hold what answers need: the base model has to answer from them alone.

    The base model reads the query with the memory in front of its text, without adapters, and predicts the answer.
    It is frozen, so gradients reach the memory side only. Decoders with the prefix reader only.

    Rows without an answer add nothing. Answers are averaged over their tokens, then over the streams of a batch.

    Args:
        model: An :class:`evoemb.EvoEmbedding` on a decoder.
        head: Weight ``(V, H)`` of the language-model head; None takes the base model's own.

    Raises:
        InputError: The head does not fit.
        CheckpointError: The base has a head of its own that was not stored, and none was given.

    Source: EvoEmbedding (arXiv 2606.21649), L_mem.
    """

    uses_answers = True

    def __init__(self, model: SentenceTransformer, head: Tensor | nn.Linear | None = None) -> None:
        super().__init__(model)
        transformer: Any = model[0]
        expected = transformer.model.get_input_embeddings().weight.shape
        self._own_head: LanguageHead = transformer.dialogue.head
        weight = head.weight if isinstance(head, nn.Linear) else head
        self.head: Tensor | None
        if weight is None:
            self._own_head.weight()  # here, not in the middle of an epoch, if there is none
        elif weight.shape != expected:
            raise InputError(f"head has shape {tuple(weight.shape)}, expected {tuple(expected)} (vocabulary, hidden).")
        self.register_buffer("head", None if weight is None else weight.detach(), persistent=False)

    def compute(self, output: dict[str, Any]) -> Tensor:
        """Return the mean loss of the streams in a batch, a scalar."""
        num_streams = len(output[whole.NUM_TURNS])
        anchored: Tensor = 0.0 * output[whole.EMBEDDING].float().sum()
        if whole.ANSWER_STATES not in output:
            return anchored
        states, targets, row = (output[name] for name in (whole.ANSWER_STATES, whole.ANSWER_TARGETS, whole.ANSWER_ROW))
        weight = self._own_head.weight().detach() if self.head is None else self.head
        logits = states @ weight.to(states.dtype).T  # (labels, V)
        each = F.cross_entropy(logits.float(), targets, reduction="none")
        answer_query = output[whole.ANSWER_QUERY].to(each.device)
        streams = torch.arange(num_streams, device=each.device)
        query_stream = streams.repeat_interleave(output[whole.NUM_QUERIES].to(each.device))
        answer_stream = query_stream[answer_query]  # (answers,)
        tokens = torch.bincount(row, minlength=len(answer_stream)).clamp(min=1)
        answers = torch.bincount(answer_stream, minlength=num_streams).clamp(min=1)
        share: Tensor = 1.0 / (tokens[row] * answers[answer_stream[row]] * num_streams)
        return (each * share).sum() + anchored
