"""The score of a reranker that reads candidates in time order: which one answers, and is it still so?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from evoemb._errors import InputError

_FAR = -1e4  # added to what attention must not see
_LOUDEST = 100.0  # the sharpest attention over a turn's tokens


@dataclass(frozen=True, slots=True)
class TimeOrdered:
    """Questions and their candidates, each question's in the order in which they were said.

    Args:
        query: Token features of the questions ``(Q, Tq, F)``.
        query_mask: ``(Q, Tq)``, 1 for a token.
        turns: Token features of every turn that is looked at ``(n, T, F)``.
        turn_mask: ``(n, T)``.
        chosen: Which turns are candidates ``(Q, N)``, indices into ``turns``, oldest first.
        before: The turn said just before each candidate ``(Q, N)``; -1 for none.
        first_stage: Standardised scores of a first ranking ``(Q, N, 2)``: late interaction, cosine.
        age: Turns said since each candidate ``(Q, N)``.
        mask: ``(Q, N)``, 1 for a candidate.
    """

    query: Tensor
    query_mask: Tensor
    turns: Tensor
    turn_mask: Tensor
    chosen: Tensor
    before: Tensor
    first_stage: Tensor
    age: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class TimeOrderedScores:
    """What the module says of candidates.

    Args:
        current: Logits ``(Q, N)``: this candidate answers the question as of when it is asked.
        nothing: Logits ``(Q,)``: none of them does.
        mentions: Logits ``(Q, N)``: the candidate says something of what is asked, be it out of date.
    """

    current: Tensor
    nothing: Tensor
    mentions: Tensor


class TimeOrderedScore(Module):
    """Compare every question with every candidate word by word, then read the candidates side by side in time order.

    Args:
        token_features: Size of a token's features, ``F``: the hidden states of ``layers`` one after the other.
        layers: Hidden layers of the backbone that the features come from; 0 is the input embeddings.
        hidden_size: Width of the module.
        num_layers: Transformer layers over the candidates.
        num_heads: Attention heads of each.
        num_candidates: Candidates that it reads of a stream at most.
        dropout: Dropout in training.

    Source: word-by-word comparison after Chen et al. 2017 (ESIM, arXiv 1609.06038); the rest is evoemb's own.
    """

    config_keys: list[str] = [
        "token_features", "layers", "hidden_size", "num_layers", "num_heads", "num_candidates", "dropout",
    ]  # fmt: skip
    ranks = 24
    ages = 16

    def __init__(
        self,
        token_features: int,
        layers: list[int],
        hidden_size: int = 128,
        num_layers: int = 2,
        num_heads: int = 8,
        num_candidates: int = 16,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        sizes: dict[str, object] = {"token_features": token_features, "hidden_size": hidden_size,
                 "num_layers": num_layers, "num_heads": num_heads, "num_candidates": num_candidates}  # fmt: skip
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 2**14:
                raise InputError(f"{name}={size!r:.40} was given. Use a whole number from 1 to {2**14}.")
        if hidden_size % num_heads:
            raise InputError(f"hidden_size={hidden_size} is no multiple of num_heads={num_heads}.")
        self.token_features, self.layers, self.hidden_size = token_features, list(layers), hidden_size
        self.num_layers, self.num_heads, self.num_candidates = num_layers, num_heads, num_candidates
        self.dropout = dropout
        width = hidden_size
        self.token_norm, self.token_in, self.token_mix = (
            nn.LayerNorm(token_features), nn.Linear(token_features, width), nn.Linear(width, width),
        )  # fmt: skip
        self.sharpness = nn.Parameter(torch.tensor(3.0))
        compared = 4 * width + 1
        self.compare = nn.Sequential(
            nn.Linear(compared, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width)
        )
        self.query_weight, self.query_out = nn.Linear(width, 1), nn.Linear(width, width)
        self.own_weight, self.own_out = nn.Linear(width, 4), nn.Linear(4 * width, width)
        self.joined, self.joined_norm = nn.Linear(3 * width, width), nn.LayerNorm(width)
        self.rank, self.age = nn.Embedding(self.ranks, width), nn.Embedding(self.ages, width)
        self.first_stage, self.alike = nn.Linear(6, width), nn.Linear(width, 32)
        self.pair_bias = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, num_heads * num_layers))
        self.blocks = nn.ModuleList([_Block(width, num_heads, dropout) for _ in range(num_layers)])
        self.out_norm, self.drop = nn.LayerNorm(width), nn.Dropout(dropout)
        self.current, self.mentions, self.nothing = nn.Linear(width, 1), nn.Linear(width, 1), nn.Linear(width, 1)
        self.trust = nn.Parameter(torch.tensor([1.0, 0.0]))  # in the first stage's two scores

    def forward(self, features: dict[str, Tensor | Any], **kwargs: Any) -> dict[str, Tensor | Any]:
        """Write ``scores`` ``(Q, N)``, ``nothing`` ``(Q,)`` and ``mentions`` ``(Q, N)`` for ``time_ordered``."""
        given: Any = features["time_ordered"]
        found = self.score(given)
        return {**features, "scores": found.current, "nothing": found.nothing, "mentions": found.mentions}

    def score(self, given: TimeOrdered) -> TimeOrderedScores:
        """Score candidates; those that ``mask`` leaves out get -10,000."""
        query, turns = self._tokens(given.query), self._tokens(given.turns)
        chosen, chosen_mask = turns[given.chosen], given.turn_mask[given.chosen]
        behind = given.before.clamp(min=0)
        said_before = given.turn_mask[behind] * (given.before >= 0).unsqueeze(-1)
        own = self._own(turns, given.turn_mask)[given.chosen]
        matched = self._compared(query, given.query_mask, chosen, chosen_mask)
        context = self._compared(query, given.query_mask, turns[behind], said_before)
        said = self.joined_norm(self.joined(torch.cat([matched, context, own], -1)))  # (Q, N, H)
        mentions = self.mentions(said)[..., 0] + given.first_stage[..., 0]
        hidden = self._side_by_side(query, said, mentions, given)
        barred = (given.mask - 1) * -_FAR
        current = self.current(hidden[:, 1:])[..., 0] + (given.first_stage * self.trust).sum(-1) + barred
        return TimeOrderedScores(current, self.nothing(hidden[:, 0])[..., 0], mentions)

    def _tokens(self, features: Tensor) -> Tensor:
        hidden = self.token_in(self.token_norm(features))
        mixed: Tensor = hidden + self.token_mix(F.gelu(hidden))
        return mixed

    def _compared(self, query: Tensor, query_mask: Tensor, turns: Tensor, mask: Tensor) -> Tensor:
        """Compare each question's words with what each turn ``(Q, N, T, H)`` says of them; returns ``(Q, N, H)``."""
        sharp = self.sharpness.exp().clamp(max=_LOUDEST)
        cosines = torch.einsum("qah,qnbh->qnab", F.normalize(query, dim=-1), F.normalize(turns, dim=-1))
        cosines = cosines * sharp + ((mask - 1) * -_FAR)[:, :, None]
        has_words = (mask.sum(-1) > 0).float()[:, :, None, None]
        found = torch.einsum("qnab,qnbh->qnah", cosines.softmax(-1), turns) * has_words
        best = (cosines.amax(-1) / sharp).clamp(min=-1).unsqueeze(-1) * has_words
        asked = query[:, None].expand_as(found)
        words = self.compare(torch.cat([asked, found, asked * found, asked - found, best], -1))
        weight = (self.query_weight(query)[..., 0] + (query_mask - 1) * -_FAR).softmax(-1)
        return torch.einsum("qa,qnah->qnh", weight, words)

    def _own(self, turns: Tensor, mask: Tensor) -> Tensor:
        """Say what kind of turn each is, whatever is asked; ``(n, H)``."""
        weight = (self.own_weight(turns) + ((mask - 1) * -_FAR).unsqueeze(-1)).softmax(1)
        own: Tensor = self.own_out(torch.einsum("nbk,nbh->nkh", weight, turns).flatten(1))
        return own

    def _side_by_side(self, query: Tensor, said: Tensor, mentions: Tensor, given: TimeOrdered) -> Tensor:
        """Let the question and its candidates, each with its place in time, see each other; ``(Q, 1 + N, H)``."""
        mask, scores, age = given.mask, given.first_stage, given.age
        better = (scores[:, :, None] < scores[:, None]).float() * mask[:, None, :, None]
        place = better.sum(2)  # (Q, N, 2): candidates that the first stage put before this one
        newer = mask.sum(1, keepdim=True) - 1 - torch.arange(mask.shape[1], device=mask.device)
        hidden = self.drop(said) + self.rank(newer.clamp(0, self.ranks - 1).long())
        hidden = hidden + self.age((2 * torch.log2(1 + age)).clamp(max=self.ages - 1).long())
        hidden = hidden + self.first_stage(torch.cat([scores / 2, 1 / (1 + place), (place == 0).float()], -1))
        words = given.query_mask.unsqueeze(-1)
        asked = self.query_out((query * words).sum(1) / words.sum(1).clamp(min=1)).unsqueeze(1)
        hidden = torch.cat([asked, hidden + asked], 1)
        alike = F.normalize(self.alike(self.drop(said)), dim=-1)
        bias = self._pair_bias(alike @ alike.transpose(1, 2), mentions, age)
        bias = bias + (F.pad(mask, (1, 0), value=1.0) - 1)[:, None, None] * -_FAR
        for block, own in zip(self.blocks, bias.chunk(self.num_layers, 1), strict=True):
            hidden = block(hidden, own)
        normed: Tensor = self.out_norm(hidden)
        return normed

    def _pair_bias(self, alike: Tensor, mentions: Tensor, age: Tensor) -> Tensor:
        """Return what one candidate's place beside another adds to attention ``(Q, heads * layers, 1 + N, 1 + N)``."""
        alike = F.pad(alike, (1, 0, 1, 0))
        time = F.pad(-age, (1, 0))
        later = time[:, :, None] - time[:, None, :]
        is_query = F.pad(torch.zeros_like(age), (1, 0), value=1.0)
        likely = F.pad(torch.sigmoid(mentions.detach()), (1, 0))
        rows, columns = is_query[:, :, None].expand_as(later), is_query[:, None, :].expand_as(later)
        apart = later.abs().clamp(max=40).log1p() / 2
        pairs = torch.stack([alike, later.sign(), apart, rows, columns, likely[:, None].expand_as(later)], -1)
        bias: Tensor = self.pair_bias(pairs).permute(0, 3, 1, 2)
        return bias

    @classmethod
    def load(  # type: ignore[override]
        cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any
    ) -> TimeOrderedScore:
        """Load the module from a folder or the Hub; arguments as in :meth:`Module.load`."""
        hub = {key: kwargs[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in kwargs}
        module = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **hub))
        cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=module, **hub)
        return module

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the configuration and the weights."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=True)


class _Block(nn.Module):
    """A transformer layer, normalised before attention and before the feed-forward part."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads, self.drop = heads, nn.Dropout(dropout)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Return ``(Q, n, H)`` of ``(Q, n, H)``; ``bias`` ``(Q, heads, n, n)`` is added to attention."""
        rows, length, width = hidden.shape
        parts = self.query_key_value(self.attention_norm(hidden)).view(rows, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        hidden = hidden + self.drop(self.out(seen.transpose(1, 2).reshape(rows, length, width)))
        fed: Tensor = hidden + self.drop(self.feed(self.feed_norm(hidden)))
        return fed
