"""The training loss of one dialogue: next token through the memory, and query against evidence turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from evoemb._errors import InputError
from evoemb.dialogue.answers import lm_loss
from evoemb.dialogue.ids import DialogueIds
from evoemb.dialogue.recurrence import embed_dialogue, write_turns
from evoemb.dialogue_format import split_chat
from evoemb.infonce import evidence_infonce
from evoemb.stream_memory import StreamMemory
from evoemb.streaming.rows import Limits, Stack, TokenIds


@dataclass(frozen=True, slots=True)
class SequenceLoss:
    """The loss of one dialogue and its parts.

    Args:
        total: ``lm`` plus ``contrastive``, if there is one.
        lm: Cross entropy of the answer.
        contrastive: None without usable evidence, or with fewer than two turns; 0 without negatives.
        logits: ``(len(last segment) + M, V)``.
        scores: Cosine / temperature of query and every history turn, ``(n,)``; None like ``contrastive``.
        evidence: Indices of ``scores`` that are positives.
    """

    total: Tensor
    lm: Tensor
    contrastive: Tensor | None
    logits: Tensor
    scores: Tensor | None
    evidence: list[int]


def sequence_loss(
    stack: Stack,
    input_ids: TokenIds,
    labels: Sequence[int],
    turn_ids: Sequence[TokenIds],
    evidence: Sequence[int],
    memory: StreamMemory,
    limits: Limits | None = None,
) -> SequenceLoss:
    """Compute the loss of one dialogue as the released checkpoints were trained. Gradients flow through the memory.

    Args:
        input_ids: The whole chat, with the answer, ending behind the last message.
        labels: One a token; only those of the last segment count.
        turn_ids: Texts of the turns, the query last, without end id or prefix.
        evidence: Indices of turns that answer the query; those that are no history turn are left out.
        memory: What the dialogue starts from.

    Raises:
        InputError: The chat is cut off, lengths differ, or the model has no chat format.

    Source: EvoEmbedding (arXiv 2606.21649), training objective; upstream model, ``forward``.
    """
    config, limits = stack.transformer.dialogue.config, limits or Limits()
    ids = config.token_ids
    if ids is None:
        raise InputError("The loss over chats needs token ids. Load a released checkpoint, or train on plain turns.")
    segments = split_chat(input_ids, im_end=ids.im_end, user=ids.user, whole=True)
    if len(labels) != len(input_ids):
        raise InputError(f"{len(labels)} labels were given for {len(input_ids)} tokens. Give one a token.")
    history, last = segments[:-1], segments[-1]
    positives = sorted({index for index in evidence if 0 <= index < len(turn_ids) - 1})
    scores: Tensor | None = None
    if positives and len(turn_ids) > 1:
        encoded = [[*turn, ids.end_of_text] for turn in turn_ids[:-1]]
        asked = [*ids.query_prefix, *turn_ids[-1], ids.end_of_text]
        dialogue = DialogueIds([], "", list(history), list(encoded), asked)
        turns, query, after = embed_dialogue(stack, dialogue, memory, limits)
        scores = F.cosine_similarity(turns.float(), query.float(), dim=-1) / config.temperature
    else:
        after = write_turns(stack, history, memory, limits)
    lm, logits = lm_loss(stack, last, labels[len(labels) - len(last) :], after)
    contrastive = None if scores is None else evidence_loss(scores, positives)
    total = lm if contrastive is None else lm + contrastive
    return SequenceLoss(total, lm, contrastive, logits, scores, positives)


def evidence_loss(scores: Tensor, positives: Sequence[int]) -> Tensor:
    """Cross entropy of each positive against all negatives, averaged, times ``ln(negatives + 1)``.

    Args:
        scores: ``(n,)``, already divided by the temperature.
        positives: Indices of evidence turns; all others are negatives.
    """
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[list(positives)] = True
    return evidence_infonce(scores[None], positive[None], ~positive[None])[0]
