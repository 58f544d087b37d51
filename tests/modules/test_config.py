"""Choices of a memory: defaults by backbone, every value checked at the door, JSON-plain."""

from __future__ import annotations

import json

import pytest

from evoemb._errors import InputError
from evoemb.modules.config import MemoryConfig


def test_the_defaults_are_the_paper_s_for_decoders_and_small_for_encoders():
    decoder, encoder = (MemoryConfig.for_backbone(causal=causal) for causal in (True, False))
    paper = ("prefix", 16, 512, 16, 2048, 64, 128.0)
    names = ("reader", "num_latents", "capacity_latents", "segment_turns", "segment_tokens", "lora_rank", "lora_alpha")
    assert tuple(getattr(decoder, name) for name in names) == paper
    assert (encoder.reader, encoder.num_latents, encoder.capacity_latents, encoder.segment_turns) == (
        "attention",
        4,
        128,
        1,
    )
    assert MemoryConfig.for_backbone(causal=True, reader="attention") == encoder
    assert MemoryConfig.for_backbone(causal=False, reader="prefix").segment_turns == 1


def test_a_choice_of_none_is_the_default_and_any_other_stands():
    config = MemoryConfig.for_backbone(causal=False, num_latents=None, capacity_latents=9, lora_rank=3)
    assert (config.num_latents, config.capacity_latents, config.lora_rank) == (4, 9, 3)


def test_a_config_goes_through_json_unchanged():
    for config in (MemoryConfig(), MemoryConfig.for_backbone(causal=False, gate_bias=-1.5, memory_layers=2)):
        assert MemoryConfig(**json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"reader": "film"}, "memory_reader='film' is not known. Use one of prefix, attention"),
        ({"init": "zero"}, "init='zero' is not known. Use one of gated, paper"),
        ({"reader": "attention", "init": "paper"}, 'init="paper" describes the prefix reader'),
        *(
            ({name: value}, rf"{name}={value} was given. Use a whole number from 1 to")
            for name in ("num_latents", "segment_turns", "segment_tokens", "lora_rank", "memory_layers")
            for value in (0, -1, 1.5, True)
        ),
        ({"num_latents": "many"}, "num_latents='many' was given"),
        ({"capacity_latents": 8}, "capacity_latents=8 is less than num_latents=16"),
        ({"lora_dropout": -0.1}, "lora_dropout=-0.1 was given. Use a number from 0 to less than 1"),
        ({"lora_dropout": 1}, "lora_dropout=1 was given"),
    ],
    ids=str,
)
def test_a_value_that_cannot_work_is_refused(choices, message):
    with pytest.raises(InputError, match=message):
        MemoryConfig(**choices)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"memory_kwargs names rank, size. Known names are .*lora_rank.*num_latents"):
        MemoryConfig.for_backbone(causal=True, size=1, rank=2)
