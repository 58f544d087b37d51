"""The model card that is saved with a model: its usage snippet runs as printed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardData


@dataclass
class EvoEmbeddingModelCardData(SentenceTransformerModelCardData):
    """Model card data of an evoemb model; arguments as for sentence-transformers."""

    task_name: str = "retrieval in streams whose order matters: conversations, agents' memory, long documents"
    tags: list[str] = field(
        default_factory=lambda: [
            "evoemb",
            "sentence-transformers",
            "sentence-similarity",
            "feature-extraction",
            "dense",
        ]
    )
    template_path: Path = field(default=Path(__file__).parent / "model_card_template.md", init=False, repr=False)

    def set_widget_examples(self, dataset: Any) -> None:
        """Leave the Hub's widget out: it compares lone sentences, and rows of training data are streams."""

    def to_dict(self) -> dict[str, Any]:
        """Return what the template shows, with a picture of the training loss."""
        values: dict[str, Any] = super().to_dict()
        losses = [entry["Training Loss"] for entry in self.training_logs if "Training Loss" in entry]
        return {**values, "loss_curve": _curve(losses)}

    def generate_usage_snippet(self) -> str:
        """Return code that loads this model, reads a short stream and asks two questions of it."""
        name = _name(self)
        return f'''```python
from evoemb import EvoEmbedding

model = EvoEmbedding("{name}")
turns = [
    "User: I moved to Lyon in March.",
    "User: My sister is coming for the summer.",
    "User: We have just moved on to Porto.",
]

state = model.new_state()
embeddings = model.encode(turns, stateful=True, state=state)  # each turn sees the memory of the turns before it
query = model.encode_query("Where do I live now?", state=state)  # a query reads the memory and leaves it as it is
print(model.similarity(query, embeddings))

print(model.retrieve(turns, "Where did I live first?", top_k=2))
```'''


def renamed(card: str, data: SentenceTransformerModelCardData) -> str:
    """Return a card whose snippet loads the model from where it is saved now."""
    return re.sub(
        r'^model = EvoEmbedding\("[^"]*"\)$', lambda _: f'model = EvoEmbedding("{_name(data)}")', card, flags=re.M
    )


def _name(data: SentenceTransformerModelCardData) -> str:
    """Return the Hub id, or else the folder the model is saved to."""
    return data.model_id or (data.save_dir and Path(data.save_dir).as_posix()) or "path/to/this/model"


_BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


def _curve(values: Sequence[float], width: int = 60) -> str:
    """Draw numbers as a line of bars, at most ``width``, each the mean of its share; empty for fewer than two."""
    if len(values) < 2:
        return ""
    count = min(width, len(values))
    cuts = [round(index * len(values) / count) for index in range(count + 1)]
    means = [sum(values[start:stop]) / (stop - start) for start, stop in pairwise(cuts)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    bars = "".join(_BARS[round((mean - low) * scale)] for mean in means)
    return f"{bars}  {means[0]:.4g} -> {means[-1]:.4g}"
