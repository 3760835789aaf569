"""Random configurations: the same for the same seed, of every architecture; rotations that can be traced."""

from __future__ import annotations

import math

import pytest
import torch
import transformers as hf

from models.drawn import DRAWN, ROTATIONS, draw
from models.rotations import fix_rotations
from protocol.errors import ConfigError

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 19}


def test_every_architecture_draws_models_that_can_be_made_and_the_same_ones_again() -> None:
    named = {"bert", "roberta", "distilbert", "electra", "gpt2", "gpt_neo", "opt", "llama", "qwen2", "mistral", "gemma"}
    assert DRAWN.keys() == named | {"vit", "deit", "dinov2", "clip"}
    for name in DRAWN:
        configs = [draw(name, seed).config.to_dict() for seed in (0, 0, 1)]
        assert configs[0] == configs[1]
        assert configs[0] != configs[2]
        assert sum(one.numel() for one in draw(name, 0).make().parameters()) < 200_000


@pytest.mark.parametrize("rotation", [one for one in ROTATIONS if one is not None], ids=lambda one: one["rope_type"])
def test_a_fixed_rotation_is_the_models_own_on_every_text_that_it_was_made_for(rotation: dict[str, object]) -> None:
    config = hf.LlamaConfig(**SIZES, max_position_embeddings=24, rope_parameters=rotation, pad_token_id=0)
    model = hf.LlamaForCausalLM(config).eval()
    ids = torch.arange(24).reshape(1, 24) % 19
    with torch.no_grad():
        expected = [model(ids[:, :n]).logits for n in (3, 24)]
        fix_rotations(model)
        actual = [model(ids[:, :n]).logits for n in (3, 24)]
    assert all(math.isclose(float((a - e).abs().max()), 0) for a, e in zip(actual, expected, strict=True))


def test_a_rotation_with_two_sets_of_frequencies_is_refused() -> None:
    factors = {"short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0], "original_max_position_embeddings": 8}
    rotation = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 2.0, **factors}
    config = hf.LlamaConfig(**SIZES, max_position_embeddings=24, rope_parameters=rotation, pad_token_id=0)
    with pytest.raises(ConfigError, match="longrope"):
        fix_rotations(hf.LlamaForCausalLM(config))
