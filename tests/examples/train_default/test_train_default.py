"""The generator of the default model's training streams keeps its promises."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

_FOLDER = Path(__file__).parents[3] / "examples" / "train_default"

if not _FOLDER.is_dir():
    pytest.skip("the examples are not part of this copy", allow_module_level=True)
sys.path.insert(0, str(_FOLDER))

from attention import AttentionTargets, TargetCollator  # noqa: E402
from context import context_questions, names_in  # noqa: E402
from generator import phrases, words  # noqa: E402
from generator.facts import EASY_CATEGORIES, STATE_CATEGORIES, UNIT_CATEGORIES, Act, Ask, Said, replay  # noqa: E402
from generator.streams import Shape, facts_of, make_stream, make_streams  # noqa: E402
from objective import DefaultModelLoss  # noqa: E402
from rows import make_rows  # noqa: E402

from evoemb import EvoEmbedding  # noqa: E402
from evoemb.default_model.base import base_model  # noqa: E402
from evoemb.evaluation.schema import parse_stream  # noqa: E402
from evoemb.evaluation.streams import read_streams  # noqa: E402
from evoemb.training import StreamCollator, parse_row  # noqa: E402

_DIALOGUE = _FOLDER.parent / "data" / "sgd_dialogue.jsonl"
SHAPE = Shape(10, 48)
SPLITS = ("train", "test")


@pytest.fixture(scope="module")
def streams() -> dict[str, list[dict]]:
    return {split: list(make_streams(60, 0, split, SHAPE)) for split in SPLITS}


def test_the_same_seed_gives_the_same_stream_and_another_seed_another():
    one, same, other = (make_stream(seed, "train", SHAPE, "s") for seed in (3, 3, 4))
    assert json.dumps(one) == json.dumps(same)
    assert one["turns"] != other["turns"]


@pytest.mark.parametrize("kind", words.kinds())
def test_training_and_test_share_no_word(kind):
    train, test = ({one.lower() for one in words.words(kind, split)} for split in SPLITS)
    assert train
    assert test
    assert not train & test


def test_training_and_test_share_no_slot_and_no_template():
    assert not set(words.slots("train")) & set(words.slots("test"))
    assert not phrases.all_templates("train") & phrases.all_templates("test")


def test_no_name_of_the_tests_stands_in_a_training_stream(streams):
    told = " ".join(turn["text"] for stream in streams["train"] for turn in stream["turns"]).lower()
    assert not [name for name in words.words("name", "test") if re.search(rf"\b{name.lower()}\b", told)]


@pytest.mark.parametrize("split", SPLITS)
def test_streams_are_in_the_stream_format_and_within_their_length(streams, split):
    for stream in streams[split]:
        parsed = parse_stream(stream, stream["stream_id"])
        assert SHAPE.min_turns <= len(parsed.turns) <= SHAPE.max_turns
        assert parsed.scored


@pytest.mark.parametrize("split", SPLITS)
def test_every_category_comes_up(streams, split):
    seen = {query["category"] for stream in streams[split] for query in stream["queries"]}
    assert seen == {*STATE_CATEGORIES, *UNIT_CATEGORIES, *EASY_CATEGORIES}


def test_a_stream_of_values_only_asks_for_values_that_change():
    seen = set()
    for stream in make_streams(20, 0, "train", replace(SHAPE, only_values=True)):
        seen |= {query["category"] for query in stream["queries"]}
    assert seen == set(STATE_CATEGORIES)


@pytest.mark.parametrize("split", SPLITS)
def test_a_tail_belongs_to_the_name_said_last_and_stands_one_to_six_turns_behind(split):
    """Read from the texts alone, without the facts they were made from."""
    names = [re.compile(rf"\b{name}\b") for name in words.words("name", split)]
    distances = set()
    for seed in range(90):
        turns, asks = facts_of(seed, split, SHAPE)
        for ask in asks:
            if ask.category not in UNIT_CATEGORIES:
                continue
            answer = replay(turns, ask)
            assert answer is not None
            tail = answer.evidence[0]
            assert not any(name.search(turns[tail].text) for name in names)
            head = next(at for at in range(tail, -1, -1) if any(name.search(turns[at].text) for name in names))
            assert ask.owner in turns[head].text
            assert ask.owner in ask.text or "'s" not in ask.text
            distances.add(tail - head)
    assert distances == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("split", SPLITS)
def test_at_least_three_turns_of_the_very_same_words_compete(streams, split):
    found = 0
    for stream in streams[split]:
        texts = [turn["text"] for turn in stream["turns"]]
        for query in stream["queries"]:
            if query["category"] in UNIT_CATEGORIES and query["asked_at"] == len(texts):
                found += 1
                assert len(query["mentions"]) >= 3
                assert {texts[at] for at in query["mentions"]} == {texts[query["evidence_turns"][0]]}
    assert found > 50


def test_place_and_age_do_not_tell_the_right_one(streams):
    """The right tail is the first, the last or another of its kind about equally often."""
    places = [
        query["mentions"].index(query["evidence_turns"][0]) / (len(query["mentions"]) - 1)
        for stream in streams["train"]
        for query in stream["queries"]
        if query["category"] in UNIT_CATEGORIES and len(query.get("mentions", ())) > 1
    ]
    assert 0.4 < sum(places) / len(places) < 0.6
    queries = [query for stream in streams["train"] for query in stream["queries"]]
    assert len({query["evidence_turns"][0] for query in queries if query["category"] == "first"}) > 15


def _history(*values: str) -> list[Said]:
    return [Said(value, (Act("set", "Nora", "gym", value),)) for value in values]


@pytest.mark.parametrize(
    ("category", "x", "right"),
    [("now", "", 3), ("first", "", 0), ("previous", "", 2), ("before_x", "c", 0), ("after_x", "a", 2)],
)
def test_values_are_found_by_replaying(category, x, right):
    turns = _history("a", "c", "d")
    turns.insert(1, Said("storm", (Act("event", value="storm"),)))
    answer = replay(turns, Ask("?", category, "Nora", "gym", x))
    assert answer is not None
    assert answer.evidence == (right,)
    assert answer.mentions == (0, 2, 3)


@pytest.mark.parametrize(("category", "right"), [("before_event", 0), ("after_event", 2)])
def test_an_event_parts_what_was_from_what_became(category, right):
    turns = _history("a", "c", "d")
    turns.insert(1, Said("storm", (Act("event", value="storm"),)))
    answer = replay(turns, Ask("?", category, "Nora", "gym", "storm"))
    assert answer is not None
    assert answer.evidence == (right,)


def test_what_the_turns_do_not_answer_is_not_asked():
    turns = _history("a")
    assert replay(turns, Ask("?", "previous", "Nora", "gym")) is None
    assert replay(turns, Ask("?", "before_x", "Nora", "gym", "z")) is None
    assert replay(turns, Ask("?", "before_event", "Nora", "gym", "storm")) is None
    assert replay(turns, Ask("?", "now", "Omar", "gym")) is None


@pytest.mark.parametrize("split", SPLITS)
def test_a_value_asked_for_stands_in_its_evidence(streams, split):
    for stream in streams[split]:
        texts = [turn["text"].lower() for turn in stream["turns"]]
        for query in stream["queries"]:
            if query["category"] in (*STATE_CATEGORIES, "single"):
                assert query["answer"].lower() in texts[query["evidence_turns"][0]]


def test_the_same_question_has_another_answer_at_another_time(streams):
    changed = 0
    for stream in streams["test"]:
        asked = sorted((q["query"], q["asked_at"], tuple(q["evidence_turns"])) for q in stream["queries"])
        changed += sum(a[0] == b[0] and a[1] != b[1] and a[2] != b[2] for a, b in pairwise(asked))
    assert changed > 20


def test_long_streams_have_their_length():
    stream = make_stream(0, "test", Shape(200, 300), "long")
    assert 200 <= len(stream["turns"]) <= 300


def test_rows_train_and_hold_questions_that_belong_elsewhere():
    rows = make_rows(6, 0, shape=Shape(10, 20), queries=5, foreign=2)
    assert rows == make_rows(6, 0, shape=Shape(10, 20), queries=5, foreign=2)
    examples = [parse_row(row) for row in rows]
    assert any(not question.evidence for example in examples for question in example.questions)
    assert all(len({question.asked_at for question in example.questions}) <= 2 for example in examples)


def _batch(model, evidence):
    row = {"turns": ["i live in paris", "ok", "i moved to rome"], "query": ["where do i live ?", "who has the key ?"]}
    example = parse_row({**row, "evidence": evidence})
    return StreamCollator(model).features([example])


def test_the_loss_names_its_terms_and_reaches_the_memory_alone(models):
    model = copy.deepcopy(models("bert", "attention"))
    found = DefaultModelLoss(model)([_batch(model, [[2], []])])
    assert set(found) == {"contrastive", "foreign", "drift"}
    sum(found.values()).backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached
    assert all("lora_" in name or "reader." in name for name in reached)


def test_terms_without_weight_are_left_out_and_one_without_a_foreign_question_is_nothing(models):
    model = models("bert", "attention")
    plain = DefaultModelLoss(model, foreign_weight=0, drift_weight=0)
    assert set(plain([_batch(model, [[2], []])])) == {"contrastive"}
    assert float(DefaultModelLoss(model)([_batch(model, [[2], [1]])])["foreign"]) == 0


def _targets_batch(model, row):
    features = TargetCollator(model)([row])
    return {name.removeprefix("stream_"): value for name, value in features.items()}


ROW = {
    "turns": ["i live in paris", "ok", "i live in rome", "ok", "i live in oslo"],
    "query": ["where did i live before ?", "where do i live ?", "who has the key ?"],
    "evidence": [[2], [4], []],
    "asked_at": [5, 5, 5],
    "anchors": [4, 4, -1],
    "links": [[2, 0], [4, 2]],
}


def test_targets_of_attention_are_ages_by_text_and_turns_seen(models):
    model = models("bert", "attention")
    ids = {text: tuple(own) for text, own in zip(ROW["turns"], model[0].token_ids(ROW["turns"]), strict=True)}
    before, now, _ = (tuple(own) for own in model[0].token_ids(ROW["query"]))
    targets = AttentionTargets.of(_targets_batch(model, ROW), window_turns=4)
    assert targets.links == {ids["i live in rome"]: (2,), ids["i live in oslo"]: (2,)}
    assert targets.first == {(before, 4): (1,), (now, 4): (1,)}
    assert targets.then == {(before, 4): (3,), (now, 4): (1,)}
    assert targets.texts() == {ids["i live in rome"], ids["i live in oslo"], before, now}


def test_targets_that_contradict_each_other_are_left_out(models):
    model = models("bert", "attention")
    row = {
        **ROW,
        "turns": ["i live in rome", "ok", "i live in rome", "i live in rome", "ok"],
        "links": [[2, 0], [3, 2]],
    }
    assert set(AttentionTargets.of(_targets_batch(model, row), window_turns=4).links.values()) == {()}


def test_the_attention_terms_fall_where_texts_look_at_their_targets(base_folder):
    memory = {"memory_layers": 2, "adapted_reading": True}
    model = EvoEmbedding(str(base_folder("bert")), memory_reader="attention", memory_kwargs=memory)
    reader = model[0].reader
    loss = DefaultModelLoss(model, attention_weight=1.0, foreign_weight=0, drift_weight=0)
    batch = _targets_batch(model, ROW)
    before = {name: float(value.detach()) for name, value in loss([batch]).items()}
    with torch.no_grad():
        reader.age_bias[:, :, 1] += 20.0  # two turns back
    after = {name: float(value.detach()) for name, value in loss([batch]).items()}
    assert set(before) == {"contrastive", "links", "first", "then"}
    assert after["links"] < 0.01 < before["links"]
    assert after["then"] > before["then"]  # those are one and three turns back
    assert before["first"] == 0  # no layer between the first and the last


def test_rows_say_what_leads_to_the_evidence():
    rows = make_rows(20, 0, shape=replace(SHAPE, only_values=True), queries=12, foreign=2, lead=9, lead_share=0.5)
    linked = 0
    for row in rows:
        follows = dict(row["links"])
        assert len(row["anchors"]) == len(row["query"])
        for anchor, evidence in zip(row["anchors"], row["evidence"], strict=True):
            if not evidence:
                assert anchor == -1
            elif anchor != evidence[0]:  # the previous value, or the one before another: one link away
                assert follows[anchor] == evidence[0]
                linked += 1
    assert linked > 20


def test_a_memory_that_moves_a_foreign_question_costs(models):
    """Against the same memory behind a closed gate, with texts on the bare backbone."""
    model = copy.deepcopy(models("bert", "attention")).eval()
    reader = model[0].reader
    loss, batch = DefaultModelLoss(model), _batch(model, [[2], []])
    with torch.no_grad():
        moved = {name: float(value) for name, value in loss([batch]).items()}
        reader.age_bias.fill_(-100.0)
        reader.config = replace(reader.config, adapted_reading=False)
        closed = {name: float(value) for name, value in loss([batch]).items()}
    assert moved["foreign"] > 1e-4
    assert closed["foreign"] == pytest.approx(0, abs=1e-5)
    assert closed["drift"] == pytest.approx(0, abs=1e-5)


def test_rows_of_conversations_keep_sessions_whole_and_evidence_right():
    rows = make_rows(12, 0, shape=SHAPE, queries=6, foreign=0, sgd_file=str(_DIALOGUE), sgd_share=1.0, sgd_turns=30)
    original = read_streams(_DIALOGUE)[0]
    told = {(query.query, original.turns[at].text) for query in original.queries for at in query.evidence_turns}
    for row in rows:
        assert len(row["turns"]) <= 38
        for query, evidence in zip(row["query"], row["evidence"], strict=True):
            assert evidence
            assert all((query, row["turns"][at]) in told for at in evidence)


def test_joined_turns_are_whole_and_keep_apart_what_competes():
    choices = {"shape": SHAPE, "queries": 30, "foreign": 0, "sgd_file": str(_DIALOGUE), "sgd_share": 1.0}
    original = read_streams(_DIALOGUE)[0]
    session = {turn.text: turn.time for turn in original.turns}
    sizes = set()
    for row in make_rows(12, 0, **choices, sgd_turns=60, join_share=1.0):
        parts = [re.split(r"\n(?=User: )", turn) for turn in row["turns"]]
        assert all(len({session[text] for text in texts}) == 1 for texts in parts)
        sizes |= {len(texts) for texts in parts}
        for query, evidence, moment in zip(row["query"], row["evidence"], row["asked_at"], strict=True):
            told = [
                [original.turns[at].text for at in known.mentions]
                for known in original.scored
                if known.query == query
                and all(
                    any(original.turns[at].text in parts[place] for place in evidence) for at in known.evidence_turns
                )
                and {text for texts in parts[:moment] for text in texts}
                <= {turn.text for turn in original.turns[: known.asked_at]}
            ]
            assert told
            assert all(len({*rivals} & {*texts}) <= 1 for rivals in told for texts in parts)
    assert sizes == {1, 2, 3, 4}
    assert make_rows(3, 1, **choices) == make_rows(3, 1, **choices, join_share=0.0)


def test_a_question_of_context_joins_a_name_to_words_of_a_later_turn_without_it():
    texts = [
        "User: I want to see Greensky Bluegrass.\nAssistant: They are at Pier 17 in March.",
        "User: That is great, thanks.\nAssistant: Anything else?",
        "User: What time does the event begin?\nAssistant: The doors open at six.",
        "User: I want to see Imperial Daze.\nAssistant: They play in London.",
    ]
    sessions = ["one", "one", "one", "two"]
    asked = [q for seed in range(40) for q in context_questions(texts, sessions, random.Random(seed), 9)]
    assert {"Greensky Bluegrass" in q["query"] for q in asked} == {True, False}  # Pier 17 is a name too
    assert not any("Daze" in q["query"] for q in asked)  # no turn of its session follows
    for question in asked:
        (at,) = question["evidence_turns"]
        name = next(one for one in ("Greensky Bluegrass", "Pier 17") if one in question["query"])
        assert at in (1, 2)
        assert name not in texts[at]
        own = [word for word in re.findall(r"[a-z']{3,}", question["query"]) if word in texts[at].lower()]
        assert len(own) >= 2


def test_questions_of_context_are_the_same_in_every_process(monkeypatch):
    """The order of a set is another in every process, so nothing drawn at random may hang on it."""
    texts, found = (
        ["User: To Lisbon with Maria Costa.\nAssistant: Fine.", "User: At six o'clock please, thanks a lot."],
        [],
    )
    for turned in (False, True):
        monkeypatch.setattr("context.names_in", lambda text, turned=turned: sorted(names_in(text), reverse=turned))
        found.append([context_questions(texts, ["one", "one"], random.Random(seed), 9) for seed in range(20)])
    assert found[0] == found[1]
    assert any(len(asked) > 1 for asked in found[0])


def test_small_talk_before_a_row_moves_its_evidence_along():
    options = {"shape": SHAPE, "queries": 8, "foreign": 0}
    plain, led = make_rows(12, 0, **options), make_rows(12, 0, **options, lead=40, lead_share=1.0)
    counts = [len(long["turns"]) - len(short["turns"]) for short, long in zip(plain, led, strict=True)]
    assert min(counts) >= 0
    assert max(counts) > 20
    for short, long, count in zip(plain, led, counts, strict=True):
        assert long["turns"][count:] == short["turns"]
        assert long["query"] == short["query"]
        assert long["evidence"] == [[at + count for at in places] for places in short["evidence"]]
        assert long["asked_at"] == [at + count for at in short["asked_at"]]
        assert long["anchors"] == [at + count for at in short["anchors"]]
        assert long["links"] == [[at + count for at in link] for link in short["links"]]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's, on transformers' side
def test_the_control_learns_from_the_same_rows_without_a_memory(base_folder, monkeypatch, tmp_path):
    import control
    from sentence_transformers import SentenceTransformer
    from train import Recipe, rows_of

    folder = str(base_folder("bert"))
    monkeypatch.setattr(control, "base_model", lambda: folder)
    recipe = Recipe(steps=12, streams=1, queries=6, max_turns=12, learning_rate=5e-3, warmup_steps=2, memory_layers=1)
    torch.manual_seed(0)
    model, rows = control.adapted_base(recipe), rows_of(recipe, 0, None, None)
    row = next(row for row in rows if [] in row["evidence"])
    before = control.row_loss(model, row, recipe).item()
    assert before == pytest.approx(control.row_loss(model, row, replace(recipe, drift_weight=9.0)).item(), abs=1e-4)
    without_answers = {**row, "evidence": [[] for _ in row["evidence"]]}
    assert torch.isfinite(control.row_loss(model, without_answers, recipe))
    control.train(model, [row] * 12, recipe)
    assert control.row_loss(model, row, recipe).item() < before - 0.05
    model[0].model = model[0].model.merge_and_unload()
    model.save_pretrained(str(tmp_path), create_model_card=False)
    texts = row["turns"][:3]
    saved, base = (SentenceTransformer(one).encode(texts) for one in (str(tmp_path), folder))
    assert saved == pytest.approx(model.encode(texts), abs=1e-5)
    assert abs(saved - base).max() > 1e-3


@pytest.mark.slow
def test_a_control_of_two_processes_is_that_of_one_with_all_rows(tmp_path):
    from sentence_transformers import SentenceTransformer

    choices = {"steps": 3, "queries": 4, "min_turns": 4, "max_turns": 8}
    choices |= {"lead_share": 0, "drift_weight": 0, "warmup_steps": 1}
    told = [part for name, value in choices.items() for part in ("--set", f"{name}={value}")]
    program = str(_FOLDER / "control.py")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--", program]
    for folder, begin, streams in (("one", [program], 2), ("two", launch, 1)):
        command = [sys.executable, *begin, str(tmp_path / folder), *told, "--set", f"streams={streams}"]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
    texts = ["I moved to Porto last week.", "Where do I live now?", "The flat is on the third floor."]
    one, two = (SentenceTransformer(str(tmp_path / name), device="cpu").encode(texts) for name in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-4)
    assert abs(one - SentenceTransformer(base_model(), device="cpu").encode(texts)).max() > 1e-3


def test_the_recipe_trains_and_writes_a_model_with_its_log(base_folder, monkeypatch, tmp_path):
    import train

    monkeypatch.setattr(train, "base_model", lambda: str(base_folder("bert")))
    recipe = train.Recipe(
        steps=2, streams=1, queries=6, max_turns=12, warmup_steps=1, num_latents=2, capacity_latents=16, memory_layers=2
    )
    trained = train.train(recipe, tmp_path / "run", 0, None)
    assert json.loads((tmp_path / "run" / "log.json").read_text())["log"]
    loaded = EvoEmbedding(str(tmp_path / "run" / "model"))
    turns = ["Ana lives in Rome.", "Ana moved to Paris."]
    assert loaded.encode(turns, stateful=True) == pytest.approx(trained.encode(turns, stateful=True), abs=1e-5)
    again = train.train(recipe, tmp_path / "more", 0, None, start=str(tmp_path / "run" / "model"))
    assert abs(again.encode(turns, stateful=True) - loaded.encode(turns, stateful=True)).max() > 1e-4


@torch.no_grad()
def test_a_weakened_start_keeps_a_part_of_every_adapters_update_and_all_else(models):
    from train import weaken

    from evoemb.modules.adapters import lora_layers

    def updates():
        parts = ((at, name, layer) for at, layer in lora_layers(model) for name in layer.lora_B)
        return {(at, name): layer.lora_B[name].weight @ layer.lora_A[name].weight for at, name, layer in parts}

    model = copy.deepcopy(models("bert", "attention"))
    before, whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}, updates()
    assert {name for _, name in whole} == {"memory", "retriever"}
    weaken(model, 0.5)
    for place, update in updates().items():
        assert whole[place].any()
        assert torch.allclose(update, 0.5 * whole[place])
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".lora_B." in name}


def test_every_process_has_rows_of_its_own(monkeypatch):
    from train import Recipe, rows_of

    alone = rows_of(Recipe(steps=3, streams=2), 0, None, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(rows_of(Recipe(steps=3, streams=2), 0, None, None)) == 2 * len(alone) == 12


def test_turns_are_held_near_themselves_and_their_neighbours(models):
    import torch.nn.functional as F

    model = copy.deepcopy(models("bert", "attention"))
    loss = DefaultModelLoss(model, mix=0.5)
    turns = [["the cat sat", "i live in paris", "a train left"], ["tell me more"]]
    tokenized = model[0].tokenize([text for stream in turns for text in stream])
    ids, mask = tokenized["input_ids"], tokenized["attention_mask"]
    features = {"input_ids": ids, "attention_mask": mask, "num_turns": torch.tensor([3, 1])}
    base = loss._base(ids, mask)
    wanted = [base[0], base[1] + 0.5 * base[0], base[2] + 0.5 * base[1] + 0.25 * base[0], base[3]]
    wanted = F.normalize(torch.stack(wanted), dim=-1)
    found = {round(float(loss._drift(wanted, features)), 5) for _ in range(20)}
    assert found == {0.0}
    assert max(float(loss._drift(base, features)) for _ in range(20)) > 0.01
