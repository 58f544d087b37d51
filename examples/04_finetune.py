"""Train a fresh memory on the small base model, on a laptop: who has a thing now, and who had it first?

Every line about a thing reads alike but for a name, so a text alone cannot say that it was the first or is the newest.
Takes about a minute on two CPU cores. Pass the number of steps to train longer: python 04_finetune.py 200
"""

import random
import sys

from evoemb import EvoEmbedding
from evoemb.losses import EvidenceContrastiveLoss
from evoemb.training import EvoEmbeddingTrainer, EvoEmbeddingTrainingArguments

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jun", "Kim", "Lea", "Mia", "Noa", "Pia")
THINGS = ("key", "lamp", "camera", "ticket", "map", "violin")


def make_row(chance: random.Random) -> dict:
    """One stream: two things change hands, and each is asked for twice. `evidence` are the turns that answer."""
    things = chance.sample(THINGS, 2)
    told = [things[index % 2] for index in range(8)]
    chance.shuffle(told)
    row = {"turns": [], "query": [], "evidence": []}
    for name, thing in zip(chance.sample(NAMES, 8), told, strict=True):
        row["turns"].append(f"{name} takes the {thing}.")
    for thing in things:
        mentions = [index for index, other in enumerate(told) if other == thing]
        row["query"] += [f"Who has the {thing} now?", f"Who had the {thing} first?"]
        row["evidence"] += [[mentions[-1]], [mentions[0]]]
    return row


def recall_at_1(model: EvoEmbedding, rows: list[dict]) -> float:
    """How often the right turn comes first."""
    found = []
    for row in rows:
        for hits, evidence in zip(model.retrieve(row["turns"], row["query"], top_k=1), row["evidence"], strict=True):
            found.append(hits[0]["corpus_id"] in evidence)
    return sum(found) / len(found)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    chance = random.Random(0)
    held_out = [make_row(chance) for _ in range(25)]
    rows = [make_row(chance) for _ in range(8 * steps)]

    model = EvoEmbedding("sentence-transformers/all-MiniLM-L6-v2", device="cpu")
    print(f"before: {recall_at_1(model, held_out):.0%} of the right turns come first (4 lines tell of each thing)")
    trainer = EvoEmbeddingTrainer(
        model=model,
        args=EvoEmbeddingTrainingArguments(
            output_dir="finetuned",
            max_steps=steps,
            per_device_train_batch_size=8,  # streams
            learning_rate=2e-3,
            warmup_steps=10,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=rows,
        loss=EvidenceContrastiveLoss,
    )
    trainer.train()
    print(f"after {steps} steps: {recall_at_1(model, held_out):.0%}")
    model.save_pretrained("finetuned/final")
    print('Load it with EvoEmbedding("finetuned/final").')


if __name__ == "__main__":
    main()
