"""Families, samples and adapters."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config

from models import samples
from models.adapters import add_lora, flatten, named_trainables, trainables
from models.bert import BERT
from models.samples import SAMPLES, Sample, sample_folder
from models.text_classification import family_of
from protocol.errors import ConfigError


@pytest.fixture
def model() -> nn.Module:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2
        )
        return BertForSequenceClassification(config)


def test_names_and_order_of_the_trainables_do_not_show_peft(model: nn.Module) -> None:
    adapted = add_lora(model, BERT, rank=2, alpha=6, targets=("query", "value"), seed=0)
    parts = trainables(adapted, BERT, scale=3.0)
    assert [(p.name, p.shape, p.role, p.layer, p.scale) for p in parts] == [
        ("encoder.layer.0.attention.self.query.lora_A", (2, 8), "lora_A", 0, 3.0),
        ("encoder.layer.0.attention.self.query.lora_B", (8, 2), "lora_B", 0, 3.0),
        ("encoder.layer.0.attention.self.value.lora_A", (2, 8), "lora_A", 0, 3.0),
        ("encoder.layer.0.attention.self.value.lora_B", (8, 2), "lora_B", 0, 3.0),
        ("classifier.weight", (2, 8), "head", None, 1.0),
        ("classifier.bias", (2,), "head", None, 1.0),
    ]


def test_the_flat_vector_gives_back_every_tensor(model: nn.Module) -> None:
    adapted = add_lora(model, BERT, rank=2, alpha=6, targets=("query",), seed=0)
    parts = trainables(adapted, BERT, scale=3.0)
    views = named_trainables(flatten(adapted, parts), parts)
    parameters = dict(adapted.named_parameters())
    assert all(torch.equal(views[part.parameter], parameters[part.parameter]) for part in parts)
    assert all(not p.requires_grad for name, p in parameters.items() if name not in views)


def test_a_target_that_is_no_layer_is_named_with_those_that_are(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"q_proj.*there are:.*query"):
        add_lora(model, BERT, rank=2, alpha=6, targets=("q_proj",), seed=0)


def test_an_unknown_family_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match="gpt2"):
        family_of(GPT2Config())


def test_a_sample_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Sample(package="no_such_package_xyz", requirement="no-such==1.0", subfolder="model", licence="MIT")
    monkeypatch.setitem(SAMPLES, "absent", absent)
    with pytest.raises(ConfigError, match=r"pip install no-such==1\.0"):
        sample_folder("absent")
    with pytest.raises(ConfigError, match="minilm"):
        sample_folder("nothing")


def test_the_packaged_sample_is_a_model_folder() -> None:
    pytest.importorskip(samples.SAMPLES["minilm"].package)
    assert (sample_folder("minilm") / "model.safetensors").is_file()


def test_the_sample_data_needs_no_torch() -> None:
    code = "import sys, models.sentiment; print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "[]\n"
