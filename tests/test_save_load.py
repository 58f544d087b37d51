"""A saved model is the same model: in a fresh process, through plain sentence-transformers, by its own model card."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from evoemb import EvoEmbedding, MemoryState
from evoemb._errors import EvoembError
from kinds import CASES
from laws import assert_same_embeddings, assert_same_states
from tiny_models import make_model

# A fresh process builds the same graph on the same machine; only the batch may be cut otherwise.
FRESH_PROCESS_TOLERANCE = 1e-6
SIX = ["i live in paris", "my sister has a red key", "i moved to rome", "", "the dog lost the blue lamp", "ok"]


# One process runs all programs, because importing takes seconds; the first of them finds nothing imported.
_PROGRAMS = """
import contextlib, io, json, sys

told = []
for code, arguments in json.loads(sys.argv[1]):
    sys.argv = ["program", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "program", "exec"), {"__name__": "__main__"})
    told.append(out.getvalue())
json.dump(told, sys.stdout)
"""


def run(folder: Path, *programs: tuple[str, list[object]]) -> list[str]:
    """What each program printed, run one after the other in a fresh process that starts in ``folder``."""
    given = json.dumps([(textwrap.dedent(code), [*map(str, arguments)]) for code, arguments in programs])
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", _PROGRAMS, given],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(params=CASES, ids="-".join)
def saved(request, base_folder, tmp_path, stream) -> tuple[EvoEmbedding, Path]:
    """A model that looks trained, and the folder it was saved to while a state of it was in use."""
    model = make_model(base_folder(request.param[0]), request.param[1])
    state = model.new_state()
    model.encode(stream, stateful=True, state=state)
    model.save_pretrained(str(tmp_path / "model"))
    return model, tmp_path / "model"


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_loaded_model_is_the_saved_model(saved, stream):
    model, folder = saved
    loaded = EvoEmbedding(str(folder), device="cpu")
    weights = model.state_dict()
    assert weights.keys() == loaded.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert loaded.state_spec.differences(model.state_spec) == []
    assert loaded.memory_config == model.memory_config
    assert np.array_equal(loaded.encode(stream, stateful=True), model.encode(stream, stateful=True))
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    assert type(loaded[-1]) is type(model[-1])


def test_saving_writes_no_state_and_nothing_that_runs(saved):
    _, folder = saved
    files = files_of(folder)
    assert {"modules.json", "model.safetensors", "memory.safetensors", "memory_config.json", "README.md"} <= set(files)
    assert {f"adapters/{name}/adapter_model.safetensors" for name in ("memory", "retriever")} <= set(files)
    assert "adapter_config.json" not in files, "a root adapter_config.json makes loaders take the folder for an adapter"
    assert all(Path(file).suffix in (".json", ".safetensors", ".md", ".txt") for file in files)
    for file in files:
        if file.endswith(".safetensors"):
            assert not any("latents." in name or "open_" in name for name in load_file(folder / file)), file
    config = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert set(config["requirements"]) == {"evoemb"}
    assert config["model_type"] == "SentenceTransformer"
    types = [module["type"] for module in json.loads((folder / "modules.json").read_text())]
    assert types[:2] == [
        "evoemb.modules.stateful_transformer.StatefulTransformer",
        "evoemb.modules.latent_memory_queue.LatentMemoryQueue",
    ]


def test_saving_again_gives_the_same_files(saved, tmp_path):
    _, folder = saved
    EvoEmbedding(str(folder), device="cpu").save_pretrained(str(tmp_path / "again"))
    assert f'EvoEmbedding("{tmp_path / "again"}")' in (tmp_path / "again" / "README.md").read_text()
    assert files_of(tmp_path / "again") == files_of(folder)
    for file in files_of(folder):
        if not file.endswith(("README.md", "adapter_config.json", "config.json")):
            assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes(), file


_PLAIN = """
    import sys
    import numpy as np
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device="cpu")
    np.save(sys.argv[2], model.encode(["i live in paris", "the dog has a red key", "ok"]))
    for call in (model.encode, model.encode_query):
        for options in ({"stateful": True}, {"state": object()}, {"memory": "final"}):
            try:
                call(["ok"], **options)
            except ValueError as error:
                print(error)
"""


_FRESH = """
    import sys
    from pathlib import Path
    import numpy as np
    from evoemb import EvoEmbedding, MemoryState

    for folder in map(Path, sys.argv[1:]):
        model = EvoEmbedding(str(folder / "model"), device="cpu")
        state = MemoryState.load(folder / "chat.safetensors")
        turns = model.encode(["where is my brother", "we moved from rome to lyon"], stateful=True, state=state)
        query = model.encode_query("where do i live", state=state)
        state.save(folder / "chat.safetensors")
        plain = model.encode(["i live in paris", "ok"])
        np.savez(folder / "out.npz", turns=turns, query=query, plain=plain)
"""


class Elsewhere(NamedTuple):
    """What was saved here, and what the programs of another process made of it and printed."""

    models: dict[Path, tuple[EvoEmbedding, MemoryState]]
    plain: str
    card: str
    snippet: str


def snippet_of(card: str) -> str:
    [snippet] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    return snippet


@pytest.fixture(scope="module")
def elsewhere(base_folder, tmp_path_factory) -> Elsewhere:
    """Models of every kind, each with a state of six turns, as a fresh process finds and uses them."""
    models = {}
    for kind, reader in CASES:
        model, folder = make_model(base_folder(kind), reader), tmp_path_factory.mktemp(f"{kind}-{reader}")
        state = model.new_state()
        model.encode(SIX, stateful=True, state=state)
        model.save_pretrained(str(folder / "model"))
        state.save(folder / "chat.safetensors")
        models[folder] = model, state
    decoder, *_, encoder = models
    card = (encoder / "model" / "README.md").read_text(encoding="utf-8")
    plain = _PLAIN, [decoder / "model", decoder / "plain.npy"]
    told = run(tmp_path_factory.mktemp("empty"), plain, (snippet_of(card), []), (_FRESH, list(models)))
    return Elsewhere(models, told[0], card, told[1])


def test_a_fresh_process_goes_on_where_this_one_stopped(elsewhere):
    for folder, (model, before) in elsewhere.models.items():
        state = before.clone()
        found = np.load(folder / "out.npz")
        turns = model.encode(["where is my brother", "we moved from rome to lyon"], stateful=True, state=state)
        assert_same_embeddings(found["turns"], turns)
        assert_same_embeddings(found["query"], model.encode_query("where do i live", state=state))
        assert_same_embeddings(found["plain"], model.encode(["i live in paris", "ok"]), FRESH_PROCESS_TOLERANCE)
        assert_same_states(MemoryState.load(folder / "chat.safetensors"), state)


def test_plain_sentence_transformers_gives_the_same_embeddings_and_explains_what_it_cannot_do(elsewhere):
    folder, (model, _) = next(iter(elsewhere.models.items()))
    expected = model.encode(["i live in paris", "the dog has a red key", "ok"])
    assert np.array_equal(np.load(folder / "plain.npy"), expected)
    told = elsewhere.plain.strip().splitlines()
    assert len(told) == 6
    for line in told:
        assert "plain SentenceTransformer" in line
        assert "from evoemb import EvoEmbedding; EvoEmbedding(path)" in line


def test_the_snippet_of_the_model_card_runs_as_printed(elsewhere):
    *_, folder = elsewhere.models
    assert str(folder / "model") in snippet_of(elsewhere.card)
    assert elsewhere.snippet.count("corpus_id") == 2
    assert "evoemb" in elsewhere.card.split("---")[1]


def test_plain_sentence_transformers_gives_a_base_model_its_own_embeddings(base_folder, tmp_path, stream):
    model = make_model(base_folder("bert"), "attention")
    model.save_pretrained(str(tmp_path))
    plain = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    base = SentenceTransformer(str(base_folder("bert")), device="cpu")
    assert np.array_equal(plain.encode(stream), base.encode(stream))


def test_our_own_modules_need_no_trust_in_remote_code(saved, tmp_path):
    _, folder = saved
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "somebody.elses.Module"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises((ImportError, ValueError, EvoembError)):
        EvoEmbedding(str(folder), device="cpu")


def test_asking_a_saved_model_for_another_memory_is_refused(saved):
    _, folder = saved
    with pytest.raises(ValueError, match=r"num_latents=9 \(saved: \d\).* Leave these out to load it"):
        EvoEmbedding(str(folder), num_latents=9, device="cpu")
    with pytest.raises(ValueError, match="memory_kwargs names ranks"):
        EvoEmbedding(str(folder), memory_kwargs={"ranks": 9}, device="cpu")
    saved_latents = EvoEmbedding(str(folder), device="cpu").memory_config.num_latents
    EvoEmbedding(str(folder), num_latents=saved_latents, device="cpu")


def test_a_folder_that_lacks_a_file_is_told(saved):
    _, folder = saved
    (folder / "adapters" / "memory" / "adapter_model.safetensors").unlink()
    with pytest.raises(EvoembError, match=r"has no adapters/memory/adapter_model.safetensors.* save the model again"):
        EvoEmbedding(str(folder), device="cpu")


@pytest.mark.parametrize("change", ["shape", "missing", "extra"])
def test_a_reader_of_another_memory_is_refused(saved, change):
    _, folder = saved
    tensors = load_file(folder / "memory.safetensors")
    if change == "shape":
        tensors["memory_queries"] = tensors["memory_queries"][:, 1:].contiguous()
    elif change == "missing":
        del tensors["memory_queries"]
    else:
        tensors["surplus"] = torch.zeros(1)
    save_file(tensors, folder / "memory.safetensors")
    with pytest.raises(
        EvoembError, match=r"memory.safetensors does not fit this reader.* load the folder it came with"
    ):
        EvoEmbedding(str(folder), device="cpu")


def test_modules_that_make_no_stack_are_refused(saved):
    model, _ = saved
    with pytest.raises(ValueError, match=r"expected StatefulTransformer -> LatentMemoryQueue -> Pooling"):
        EvoEmbedding(modules=[model[0], model[2]], device="cpu")
    with pytest.raises(ValueError, match=r"a Pooling must follow LatentMemoryQueue"):
        EvoEmbedding(modules=[model[0], model[1], model[3]], device="cpu")
    other = type(model[1])(hidden_size=32, num_latents=1, capacity_latents=5)
    with pytest.raises(ValueError, match=r"num_latents is \d in StatefulTransformer and 1 in LatentMemoryQueue"):
        EvoEmbedding(modules=[model[0], other, model[2]], device="cpu")
    with pytest.raises(EvoembError, match=r"starts with Pooling, which gives no token embeddings"):
        EvoEmbedding(modules=[model[2], model[3]], device="cpu")


def test_a_model_in_half_precision_is_saved_and_keeps_its_states(base_folder, tmp_path, stream):
    model = make_model(base_folder("bert"), "attention").to(torch.bfloat16)
    state = model.new_state()
    model.encode(stream, stateful=True, state=state)
    model.save_pretrained(str(tmp_path))
    loaded = EvoEmbedding(str(tmp_path), device="cpu", model_kwargs={"dtype": "bfloat16"})
    assert loaded.dtype == torch.bfloat16
    assert loaded.state_spec.differences(model.state_spec) == []
    assert_same_embeddings(loaded.encode("where", state=state), model.encode("where", state=state), tolerance=0)
    wide = EvoEmbedding(str(tmp_path), device="cpu", model_kwargs={"dtype": "float32"})
    assert wide.state_spec.differences(model.state_spec) == []
    assert all(parameter.dtype == torch.float32 for parameter in wide.parameters())


def test_saving_leaves_the_weights_and_what_is_trainable(saved, tmp_path):
    model, _ = saved
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}
    model.save_pretrained(str(tmp_path / "checkpoint"))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]
