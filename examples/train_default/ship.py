"""Put a trained memory into the package: ``python ship.py RUN/model``, from the folder that ``train.py`` wrote.

Writes ``src/evoemb/default_model/weights`` anew, all but its model card (README.md), in float16 if that moves no
embedding by more than 1e-3 of cosine, else in float32; and the run's choices, log and loss curve to
``docs/default_model``. Run it again whenever there are better weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curve import draw_curve
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from evoemb import EvoEmbedding
from evoemb.default_model.base import BASE_MODEL, BASE_SHA256, base_model
from evoemb.default_model.packaged import CARD_FILE, SCORE_FOLDER, Base, PackagedModel, save_packaged
from evoemb.modules.tensor_files import WEIGHTS_FILE
from evoemb.ranking import RetrievalConfig

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "src" / "evoemb" / "default_model" / "weights"
DOCS = ROOT / "docs" / "default_model"
CONVERSATION = ROOT / "examples" / "data" / "sgd_dialogue.jsonl"
MOST_BYTES = 10_000_000
MOST_CHANGE = 1e-3  # of cosine, by float16
RETRIEVAL = RetrievalConfig("late", previous_weight=0.2, vector_weight=1.0)  # chosen on development sets
SOME_TEXTS = ("", "Where do I live now?", "the second one", "No, I meant the blue one. " * 20)


def main() -> None:
    """Read the command line, write, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a trained model")
    parser.add_argument("--version", help="name of this training (default: the name of the folder the model lies in)")
    told = parser.parse_args()
    run = told.model.resolve().parent
    ship(told.model, TARGET, told.version or run.name)
    record(run, DOCS)


def ship(trained: Path, target: Path, version: str) -> None:
    """Write the memory of a trained model to ``target``.

    Raises:
        SystemExit: The model's base is not the unchanged MiniLM, its memory is untrained, or the files are too large.
    """
    refuse_another_base(trained)
    before = embeddings_of(EvoEmbedding(trained, device="cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        for dtype in (torch.float16, torch.float32):
            folder = Path(scratch, str(dtype))
            write(trained, folder, dtype, version)
            cosine = float((before * embeddings_of(reloaded(folder))).sum(axis=1).min())
            print(f"{dtype}: cosine with the trained model at least {cosine:.7f}, {bytes_of(folder):,} bytes")
            if 1 - cosine <= MOST_CHANGE:
                break
        else:
            raise SystemExit(
                "The written memory does not give the embeddings of the trained model; nothing was shipped."
            )
        if bytes_of(folder) > MOST_BYTES:
            raise SystemExit(f"{bytes_of(folder):,} bytes are more than the {MOST_BYTES:,} that may be shipped.")
        replace(target, folder)
    print(f"wrote {target}, version {version}")


def write(trained: Path, folder: Path, dtype: torch.dtype, version: str) -> None:
    """Write the memory of a trained model to ``folder`` in ``dtype``, with the model card that is shipped now."""
    model = EvoEmbedding(trained, device="cpu")
    transformer: Any = model[0]
    if not transformer.is_memory_trained:
        raise SystemExit(f"The memory of {trained} is untrained.")
    transformer.model.config._name_or_path = BASE_MODEL  # stands in the adapters' files, where a path says nothing
    save_packaged(model.to(dtype), folder, Base(BASE_MODEL, BASE_SHA256, version), RETRIEVAL)
    shutil.copy(TARGET / CARD_FILE, folder / CARD_FILE)


def refuse_another_base(trained: Path) -> None:
    """Refuse a model whose backbone is not bit for bit the base: the shipped memory would not fit it."""
    expected, found = load_file(Path(base_model(), WEIGHTS_FILE)), load_file(trained / WEIGHTS_FILE)
    if changed := [name for name, tensor in found.items() if not torch.equal(tensor, expected[name])]:
        raise SystemExit(f"{len(changed)} tensors of the base differ from {BASE_MODEL}, among them {changed[0]}.")


def reloaded(folder: Path) -> EvoEmbedding:
    """Give the model as the package will load it."""
    base = SentenceTransformer(base_model(), device="cpu")
    return EvoEmbedding(modules=PackagedModel(folder).put_on(list(base)), device="cpu")


def embeddings_of(model: EvoEmbedding) -> np.ndarray:
    """Embed a conversation with its memory, and texts that see that memory: rows of unit length."""
    turns = [turn["text"] for turn in json.loads(CONVERSATION.read_text(encoding="utf-8"))["turns"]]
    state = model.new_state()
    read = model.encode_document([*turns, *SOME_TEXTS], stateful=True, state=state)
    return np.concatenate([read, model.encode_query(list(SOME_TEXTS), state=state), model.encode(turns)])


def record(run: Path, docs: Path) -> None:
    """Write the choices and the log of a run, as ``train.py`` left them, and its loss curve."""
    choices, told = (json.loads((run / name).read_text(encoding="utf-8")) for name in ("config.json", "log.json"))
    steps = [entry for entry in told["log"] if "loss" in entry]
    lines = ",\n".join(json.dumps(entry) for entry in steps)
    head = f'"config": {json.dumps(choices)},\n"about": {json.dumps(told["about"])}'
    (docs / "shipped_run.json").write_text(f'{{{head},\n"log": [\n{lines}\n]}}\n', encoding="utf-8")
    (docs / "shipped_loss.svg").write_text(draw_curve(steps), encoding="utf-8")
    print(f"wrote shipped_run.json and shipped_loss.svg to {docs}")


def bytes_of(folder: Path) -> int:
    """Count the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def replace(target: Path, folder: Path) -> None:
    """Put the files of ``folder`` in the place of those in ``target``; the model card and the reranker there stay."""
    staying = [target / CARD_FILE, *(target / SCORE_FOLDER).glob("*")]  # the reranker reads the base, no memory
    kept = {path: path.read_bytes() for path in staying}
    shutil.rmtree(target)
    shutil.copytree(folder, target)
    for path, content in kept.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes for the owner alone


if __name__ == "__main__":
    main()
