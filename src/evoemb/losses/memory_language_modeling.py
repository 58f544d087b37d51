"""The answer from the memory: next-token loss through the frozen base model, adapters off."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from evoemb._errors import InputError
from evoemb.losses.base import StreamLoss
from evoemb.streaming import whole


class MemoryLanguageModelingLoss(StreamLoss):
    """Make the latents hold what answers need: the base model has to answer from them alone.

    The base model reads the query with the memory in front of its text, without adapters, and predicts the answer.
    It is frozen, so gradients reach the memory side only. Decoders with the prefix reader only.

    Rows without an answer add nothing. Answers are averaged over their tokens, then over the streams of a batch.

    Args:
        model: An :class:`evoemb.EvoEmbedding` on a decoder.
        head: Weight ``(V, H)`` of the language-model head; None takes the input embeddings, which is right for bases
            that tie the two.

    Raises:
        InputError: The base does not tie its head and none was given, or the head does not fit.

    Source: EvoEmbedding (arXiv 2606.21649), L_mem.
    """

    uses_answers = True

    def __init__(self, model: SentenceTransformer, head: Tensor | nn.Linear | None = None) -> None:
        super().__init__(model)
        backbone: Any = model[0].model  # type: ignore[union-attr]
        embedding = backbone.get_input_embeddings()
        self._embedding = [embedding]  # in a list: registered in the model already
        if head is None and not getattr(backbone.config, "tie_word_embeddings", False):
            raise InputError(
                f"{type(backbone).__name__} does not tie its language-model head to its input embeddings, and the model "
                "keeps no head. Pass head=, the lm_head of the causal language model it was taken from."
            )
        weight = head.weight if isinstance(head, nn.Linear) else head
        if weight is not None and weight.shape != embedding.weight.shape:
            raise InputError(
                f"head has shape {tuple(weight.shape)}, expected {tuple(embedding.weight.shape)} (vocabulary, hidden)."
            )
        self.register_buffer("head", None if weight is None else weight.detach(), persistent=False)

    def compute(self, output: dict[str, Any]) -> Tensor:
        """Give the mean loss of the streams in a batch, a scalar."""
        num_streams = len(output[whole.NUM_TURNS])
        anchored = 0.0 * output[whole.EMBEDDING].float().sum()
        if whole.ANSWER_STATES not in output:
            return anchored
        states, targets, row = (
            output[name] for name in (whole.ANSWER_STATES, whole.ANSWER_TARGETS, whole.ANSWER_ROW)
        )
        weight = self._embedding[0].weight.detach() if self.head is None else self.head
        logits = states @ weight.to(states.dtype).T  # (L, V)
        each = F.cross_entropy(logits.float(), targets, reduction="none")
        answer_query = output[whole.ANSWER_QUERY].to(each.device)
        streams = torch.arange(num_streams, device=each.device)
        query_stream = streams.repeat_interleave(output[whole.NUM_QUERIES].to(each.device))
        answer_stream = query_stream[answer_query]  # (A,)
        tokens = torch.bincount(row, minlength=len(answer_stream)).clamp(min=1)
        answers = torch.bincount(answer_stream, minlength=num_streams).clamp(min=1)
        share = 1.0 / (tokens[row] * answers[answer_stream[row]] * num_streams)
        return (each * share).sum() + anchored
