"""Read a conversation as a stream and ask about it at two moments: the same question, two right answers.

Beside each ranking with memory stands the one without, by the same model. The conversation is natural dialogue (SGD,
development set), which the default model was not trained on. Another model goes in its place:
python 01_encode_stream.py NAME_OR_FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np

from evoemb import EvoEmbedding

CONVERSATION = Path(__file__).parent / "data" / "sgd_dialogue.jsonl"
MOMENTS = (22, 61)  # turns read when the questions are asked
TOP_K = 3


def main() -> None:
    conversation = json.loads(CONVERSATION.read_text(encoding="utf-8"))
    turns = [turn["text"] for turn in conversation["turns"]]
    model = EvoEmbedding(*sys.argv[1:2])  # no name: the trained model that ships with evoemb
    trained = model.describe()["memory_trained"]

    static = model.encode_document(turns)  # every turn by itself: what any sentence embedding does

    state = model.new_state()
    evolving = np.empty((0, static.shape[1]), dtype=np.float32)
    for moment in MOMENTS:
        # Only the new turns are read. Earlier embeddings stay as they are, so an index of them only grows.
        new = model.encode_document(turns[len(evolving) : moment], stateful=True, state=state)
        evolving = np.concatenate([evolving, new])
        print(f"\n===== after {moment} turns =====")
        for question in questions_at(moment, conversation["queries"]):
            # The question sees what was read so far. Without stateful=True it leaves no trace in the memory.
            with_memory = model.encode_query(question["query"], state=state)
            without = model.encode_query(question["query"])
            show(
                question,
                turns,
                ranked(model.similarity(with_memory, evolving)[0]),
                ranked(model.similarity(without, static[:moment])[0]),
            )

    print(f"\n* = a turn that answers the question. The best {TOP_K} turns are shown.")
    if not trained:
        print(
            "This model's memory is UNTRAINED, so the two rankings are nearly alike: neither can know which mention of"
        )
        print("a departure city is the current one. A memory has to be trained to tell them apart.")


def questions_at(moment: int, queries: list[dict]) -> list[dict]:
    """The questions about the bus's departure city, and those that have a single answer, asked at this moment."""
    at_moment = [query for query in queries if query["asked_at"] == moment]
    return [query for query in at_moment if "departure city" in query["query"] or "recipient" in query["query"]]


def ranked(scores) -> list[tuple[int, float]]:
    """Turn numbers and scores, best first."""
    return [(int(turn), float(scores[int(turn)])) for turn in scores.argsort(descending=True, stable=True)]


def show(question: dict, turns: list[str], evolving: list, static: list) -> None:
    right = question["evidence_turns"]
    print(
        f"\n{question['query']}  ({question['kind']}; right: turn {', '.join(map(str, right))}, {question['answer']})"
    )
    for name, ranking in (("with memory", evolving), ("without", static)):
        place = min(place for place, (turn, _) in enumerate(ranking, start=1) if turn in right)
        print(f"  {name}: the right turn is in place {place}")
        for turn, score in ranking[:TOP_K]:
            print(f"  {'*' if turn in right else ' '} {score:.3f}  turn {turn:>2}  {turns[turn].splitlines()[0][:88]}")


if __name__ == "__main__":
    main()
