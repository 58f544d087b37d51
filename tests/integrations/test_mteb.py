"""The model as mteb sees it: documents are turns, replayed in order."""

from __future__ import annotations

import numpy as np
import pytest

from evoemb import InputError
from evoemb.evaluation.controls import Control
from evoemb.integrations.mteb import EvoSearch

CORPUS = [{"id": f"d{number}", "text": text, "title": ""} for number, text in enumerate(
    ["i live in paris", "my dog has a key", "i moved to rome", "my cat is in oslo"])]  # fmt: skip
QUERIES = [{"id": "q0", "text": "where do i live"}, {"id": "q1", "text": "my cat"}]


def test_the_corpus_is_read_as_one_stream(model):
    search = EvoSearch(model)
    search.index(CORPUS, task_metadata=None, hf_split="test", hf_subset="default", encode_kwargs={}, num_proc=None)
    found = search.search(QUERIES, top_k=3, encode_kwargs={"batch_size": 4}, task_metadata=None, num_proc=None)
    state = model.new_state()
    turns = model.encode_document([row["text"] for row in CORPUS], stateful=True, state=state)
    for row in QUERIES:
        expected = turns @ model.encode_query(row["text"], state=state)
        best = np.argsort(-expected)[:3]
        assert list(found[row["id"]]) == [f"d{number}" for number in best]
        np.testing.assert_allclose(list(found[row["id"]].values()), expected[best], atol=2e-5)


def test_candidates_are_a_stream_in_the_order_listed(models):
    search = EvoSearch(models("bert", "attention"))
    search.index(CORPUS)
    forward = search.search(QUERIES[:1], top_k=4, top_ranked={"q0": ["d0", "d2", "d3"]})
    backward = search.search(QUERIES[:1], top_k=4, top_ranked={"q0": ["d3", "d2", "d0"]})
    assert set(forward["q0"]) == set(backward["q0"]) == {"d0", "d2", "d3"}
    assert forward != backward
    off = EvoSearch(models("bert", "attention"), control=Control("off"))
    off.index(CORPUS)
    one = off.search(QUERIES[:1], top_k=4, top_ranked={"q0": ["d0", "d2", "d3"]})["q0"]
    two = off.search(QUERIES[:1], top_k=4, top_ranked={"q0": ["d3", "d2", "d0"]})["q0"]
    assert one == pytest.approx(two, abs=1e-6)
    with pytest.raises(InputError, match="'zz' is a candidate of query 'q0' but not in the corpus"):
        search.search(QUERIES[:1], top_k=4, top_ranked={"q0": ["zz"]})


@pytest.mark.slow
def test_mteb_evaluates_it(models):
    mteb = pytest.importorskip("mteb")
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.models_protocols import SearchProtocol

    class Tiny(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Tiny", description="A task for this test.", dataset={"path": "none", "revision": "1"},
            type="Retrieval", category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"],
            main_score="recall_at_1", reference=None, date=None, domains=None, task_subtypes=None, license=None,
            annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation=None,
        )  # fmt: skip

        def load_data(self, *args, **kwargs):
            columns = {"id": [row["id"] for row in CORPUS], "text": [row["text"] for row in CORPUS]}
            asked = {"id": [row["id"] for row in QUERIES], "text": [row["text"] for row in QUERIES]}
            split = {"corpus": Dataset.from_dict(columns), "queries": Dataset.from_dict(asked),
                     "relevant_docs": {"q0": {"d2": 1}, "q1": {"d3": 1}}, "top_ranked": None}  # fmt: skip
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    search = EvoSearch(models("bert", "attention"))
    assert isinstance(search, SearchProtocol)
    (result,) = mteb.evaluate(search, [Tiny()], cache=None, co2_tracker=False).task_results
    found = search.search(QUERIES, top_k=1)
    expected = (("d2" in found["q0"]) + ("d3" in found["q1"])) / 2
    assert result.scores["test"][0]["recall_at_1"] == pytest.approx(expected)
