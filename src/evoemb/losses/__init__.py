"""Losses over batches of whole streams; each works with the stock sentence-transformers trainer."""

from evoemb.losses.base import StreamLoss
from evoemb.losses.cached import CachedStreamLoss
from evoemb.losses.combined import CombinedLoss
from evoemb.losses.evidence_contrastive import EvidenceContrastiveLoss
from evoemb.losses.memory_language_modeling import MemoryLanguageModelingLoss

__all__ = [
    "CachedStreamLoss",
    "CombinedLoss",
    "EvidenceContrastiveLoss",
    "MemoryLanguageModelingLoss",
    "StreamLoss",
]
