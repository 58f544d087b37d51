"""Read half of a conversation, save the memory, load it and read on: the embeddings are those of reading at once."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from evoemb import EvoEmbedding, MemoryState

CONVERSATION = Path(__file__).parent / "data" / "sgd_dialogue.jsonl"
TOLERANCE = 1e-5  # float32; the same numbers come from batches of other sizes


def main() -> None:
    conversation = json.loads(CONVERSATION.read_text(encoding="utf-8"))
    turns = [turn["text"] for turn in conversation["turns"]]
    half = len(turns) // 2
    model = EvoEmbedding(*sys.argv[1:2])  # no name: the trained model that ships with evoemb

    at_once = model.encode_document(turns, stateful=True)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "conversation.safetensors"

        monday = model.new_state()
        first = model.encode_document(turns[:half], stateful=True, state=monday)
        monday.save(file)
        size = file.stat().st_size

        # Another day, another process: the file is all that is needed beside the model.
        tuesday = MemoryState.load(file)
        second = model.encode_document(turns[half:], stateful=True, state=tuesday)

    forgotten = model.encode_document(turns[half:], stateful=True)  # what happens if the state is not passed on

    difference = np.abs(np.concatenate([first, second]) - at_once).max()
    print(
        f"saved after {monday.num_turns} turns: {monday.num_latents} latents, {monday.nbytes:,} bytes (file: {size:,})"
    )
    print(f"read on to  {tuesday.num_turns} turns: {tuesday.num_latents} latents, {tuesday.nbytes:,} bytes")
    print(f"a state never holds more than {model.memory_config.capacity_latents} latents, however long the stream gets")
    print(f"largest difference to reading at once:      {difference:.1e}")
    print(f"the same if the memory had been left out:   {np.abs(forgotten - at_once[half:]).max():.1e}")
    if difference > TOLERANCE:
        raise SystemExit(f"The embeddings differ by {difference:.1e}, more than {TOLERANCE:.0e}.")


if __name__ == "__main__":
    main()
