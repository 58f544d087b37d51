"""The model card that is saved with a model: its usage snippet runs as printed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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

    def generate_usage_snippet(self) -> str:
        """Give code that loads this model, reads a short stream and asks two questions of it."""
        name = self.model_id or (self.save_dir and Path(self.save_dir).as_posix()) or "path/to/this/model"
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
