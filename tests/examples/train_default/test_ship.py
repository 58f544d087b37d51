"""``ship.py`` puts a trained memory into the package, and draws the loss of its run."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evoemb import EvoEmbedding
from evoemb.default_model.base import OFFLINE_PACKAGE, base_model

_FOLDER = Path(__file__).parents[3] / "examples" / "train_default"

if not _FOLDER.is_dir():
    pytest.skip("the examples are not part of this copy", allow_module_level=True)
pytest.importorskip(OFFLINE_PACKAGE)
sys.path.insert(0, str(_FOLDER))

from average import average  # noqa: E402
from curve import draw_curve  # noqa: E402
from ship import TARGET, record, ship  # noqa: E402

LOG = [{"loss": "2.0", "drift": 0.5, "step": 10}, {"loss": 1.0, "drift": 0.25, "step": 20}, {"train_runtime": 3.0}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A trained model as a run leaves it: the default model itself."""
    folder = tmp_path_factory.mktemp("run") / "model"
    EvoEmbedding(device="cpu").save_pretrained(str(folder))
    return folder


@pytest.mark.slow
def test_shipping_the_shipped_model_writes_the_same_weights_and_keeps_the_card(trained, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "README.md").write_text("the card")
    (target / "left over").write_text("from before")
    shutil.copytree(TARGET / "reranker", target / "reranker")  # no part of the memory: it stays
    ship(trained, target, "again")
    files = {path.relative_to(TARGET) for path in TARGET.rglob("*") if path.is_file()}
    assert {path.relative_to(target) for path in target.rglob("*") if path.is_file()} == files
    for name in files:
        if name.suffix == ".safetensors":
            assert (target / name).read_bytes() == (TARGET / name).read_bytes(), name
    assert (target / "README.md").read_text() == "the card"
    assert json.loads((target / "base.json").read_text())["version"] == "again"


def test_a_model_whose_base_was_trained_is_refused(trained, tmp_path):
    changed = Path(shutil.copytree(trained, tmp_path / "model"))
    weights = load_file(changed / "model.safetensors")
    weights["embeddings.LayerNorm.weight"] += 1e-3
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit, match=r"1 tensors of the base differ from .*MiniLM.* embeddings.LayerNorm.weight"):
        ship(changed, tmp_path / "target", "changed")
    assert not (tmp_path / "target").exists()


def test_the_average_has_the_mean_memory_and_the_same_base(trained, tmp_path):
    changed = Path(shutil.copytree(trained, tmp_path / "model"))
    memory = load_file(changed / "memory.safetensors")
    before = {name: tensor.clone() for name, tensor in memory.items()}
    for tensor in memory.values():
        tensor += 0.5
    save_file(memory, changed / "memory.safetensors", metadata={"format": "pt"})
    average([trained, changed]).save_pretrained(str(tmp_path / "mean"))
    for name, tensor in load_file(tmp_path / "mean" / "memory.safetensors").items():
        torch.testing.assert_close(tensor, before[name] + 0.25)
    for name, tensor in load_file(tmp_path / "mean" / "model.safetensors").items():
        assert torch.equal(tensor, load_file(trained / "model.safetensors")[name]), name


def test_models_of_different_shape_are_not_averaged(trained, tmp_path):
    EvoEmbedding(base_model(), memory_reader="attention", num_latents=2).save_pretrained(str(tmp_path / "two"))
    with pytest.raises(SystemExit, match="not in all models, or not of one shape"):
        average([trained, tmp_path / "two"])


def test_the_curve_has_a_line_for_each_term_of_the_loss_and_falls_where_it_falls():
    lines = re.findall(r'<polyline points="([^"]*)"', draw_curve(LOG[:2]))
    assert len(lines) == 2
    for line in lines:
        (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line.split())
        assert x0 < x1
        assert y0 < y1  # down the page
    with pytest.raises(ValueError, match="1 entries of the log have a loss; a curve needs two"):
        draw_curve(LOG[:1])


def test_the_record_of_a_run_holds_its_choices_and_its_log(tmp_path):
    run, docs = tmp_path / "run", tmp_path / "docs"
    run.mkdir()
    docs.mkdir()
    (run / "config.json").write_text('{"steps": 20}')
    (run / "log.json").write_text(json.dumps({"about": {"seconds": 3}, "log": LOG}))
    record(run, docs)
    written = json.loads((docs / "shipped_run.json").read_text())
    assert written == {"config": {"steps": 20}, "about": {"seconds": 3}, "log": LOG[:2]}
    assert (docs / "shipped_loss.svg").read_text() == draw_curve(LOG[:2])
