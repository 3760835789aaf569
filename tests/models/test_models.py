"""Families, samples and adapters."""

import math
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, PreTrainedModel

from models import samples
from models.adapters import Recipe, Trainable, add_adapter, flatten, named_trainables, parts_of
from models.bert import BERT
from models.causal_lm import CAUSAL_LM, token_scores
from models.causal_lm import loss as lm_loss
from models.image_classification import ImageClassifier
from models.samples import SAMPLES, Sample, sample_folder
from models.soft_prompt import add_soft_prompt, prompted
from models.task import family_of
from models.tasks import TASKS
from models.text_classification import TEXT_CLASSIFICATION, Classifier
from models.tiny import TINY
from protocol.errors import ConfigError
from protocol.jobs import COMPARED_SCORES


@pytest.fixture
def model() -> PreTrainedModel:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2
        )
        return BertForSequenceClassification(config)


def recipe(text: str, **changes: object) -> Recipe:
    values: dict[str, object] = {"rank": 2, "alpha": 6, "targets": ("query", "value")} | changes
    return Recipe(parts=parts_of(text, has_head=True), **values)  # type: ignore[arg-type]


def test_names_and_order_of_the_trainables_do_not_show_peft(model: PreTrainedModel) -> None:
    parts = add_adapter(model, BERT, recipe("lora+head"))
    assert [(p.name, p.shape, p.role, p.layer, p.scale) for p in parts] == [
        ("encoder.layer.0.attention.self.query.lora_A", (2, 8), "lora_A", 0, 3.0),
        ("encoder.layer.0.attention.self.query.lora_B", (8, 2), "lora_B", 0, 3.0),
        ("encoder.layer.0.attention.self.value.lora_A", (2, 8), "lora_A", 0, 3.0),
        ("encoder.layer.0.attention.self.value.lora_B", (8, 2), "lora_B", 0, 3.0),
        ("classifier.weight", (2, 8), "head", None, 1.0),
        ("classifier.bias", (2,), "head", None, 1.0),
    ]


def test_the_flat_vector_gives_back_every_tensor(model: PreTrainedModel) -> None:
    parts = add_adapter(model, BERT, recipe("lora+ia3+soft-prompt+bitfit+head"))
    views = named_trainables(flatten(model, parts), parts)
    parameters = dict(model.named_parameters())
    assert all(torch.equal(views[part.parameter], parameters[part.parameter]) for part in parts)
    assert all(not p.requires_grad for name, p in parameters.items() if name not in views)


def test_a_target_that_is_no_layer_is_named_with_those_that_are(model: PreTrainedModel) -> None:
    with pytest.raises(ConfigError, match=r"q_proj.*there are:.*query"):
        add_adapter(model, BERT, recipe("lora+head", targets=("q_proj",)))


def roles(parts: tuple[Trainable, ...]) -> dict[str, int]:
    """Return how many tensors each role has."""
    return dict(Counter(part.role for part in parts))


def test_every_part_has_its_role_and_a_key_bias_is_never_trained(model: PreTrainedModel) -> None:
    parts = add_adapter(model, BERT, recipe("lora+ia3+bitfit+soft-prompt+head", n_virtual=5))
    # One layer: 2 targets; key, value and feed-forward factors; 8 biases without the key's, 2 of norms among them,
    # and those of the embeddings' norm and the pooler.
    assert roles(parts) == {"lora_A": 2, "lora_B": 2, "scale": 3, "bias": 9, "prompt": 1, "head": 2}
    shapes = {part.name: part.shape for part in parts}
    assert shapes["prompt.embeddings"] == (5, 8)
    assert shapes["encoder.layer.0.attention.self.key.ia3"] == (8,)
    assert not [name for name in shapes if "key.bias" in name]


def test_full_trains_every_weight_but_the_idle_ones(model: PreTrainedModel) -> None:
    idle = {"bert.encoder.layer.0.attention.self.key.bias"}
    parts = add_adapter(model, BERT, recipe("full+head"))
    assert {part.parameter for part in parts} == {name for name, _ in model.named_parameters()} - idle
    assert set(roles(parts)) == {"base", "head"}


def test_a_new_adapter_of_lora_and_factors_changes_nothing(model: PreTrainedModel) -> None:
    batch = (torch.arange(6).reshape(2, 3), torch.ones(2, 3, dtype=torch.int64))
    before = Classifier(model.eval())(*batch)
    add_adapter(model, BERT, recipe("lora+ia3+head"))
    assert torch.equal(Classifier(model)(*batch), before)


def test_a_soft_prompt_leaves_the_first_token_to_the_head(model: PreTrainedModel) -> None:
    add_adapter(model, BERT, recipe("soft-prompt+head", n_virtual=4))
    given = prompted(model, torch.arange(6).reshape(2, 3), torch.tensor([[1, 1, 1], [1, 0, 0]]))
    words = model.get_input_embeddings()(torch.arange(6).reshape(2, 3))
    assert torch.equal(given["inputs_embeds"][:, 0], words[:, 0])
    assert torch.equal(given["inputs_embeds"][:, 5:], words[:, 1:])
    assert given["attention_mask"].tolist() == [[1] * 7, [1] * 5 + [0] * 2]


def test_a_prefix_takes_part_in_the_attention_of_every_token(model: PreTrainedModel) -> None:
    batch = (torch.arange(6).reshape(2, 3), torch.tensor([[1, 1, 1], [1, 1, 0]]))
    before = Classifier(model.eval())(*batch)
    parts = add_adapter(model, BERT, recipe("prefix+head", n_virtual=4))
    assert roles(parts) == {"prefix": 2, "head": 2}
    assert {part.shape for part in parts if part.role == "prefix"} == {(4, 8)}
    attention = model.bert.encoder.layer[0].attention.self
    assert not torch.allclose(Classifier(model)(*batch), before)
    with torch.no_grad():
        attention.key.weight.zero_()
        attention.key.bias.zero_()  # all scores are zero: the mean of all values
        attention.prefix_key.zero_()
        values = attention.value(torch.ones(1, 1, 8))
        attention.prefix_value.copy_(values[0].expand(4, 8))
        mixed, weights = attention(torch.ones(1, 3, 8))
    assert torch.allclose(mixed[0, 0], values[0, 0], atol=1e-6)
    assert weights.shape[-1] == 4 + 3


def test_rslora_divides_by_the_root_of_the_rank(model: PreTrainedModel) -> None:
    parts = add_adapter(model, BERT, recipe("lora+head", rank=4, alpha=6, rslora=True))
    assert parts[0].scale == 3.0
    assert model.bert.encoder.layer[0].attention.self.query.scaling["default"] == 3.0


@pytest.mark.parametrize(
    ("text", "has_head", "parts"),
    [
        ("lora", True, ("lora", "head")),
        ("soft-prompt+lora", True, ("lora", "soft-prompt", "head")),
        ("head", True, ("head",)),
        ("full", False, ("full",)),
    ],
)
def test_parts_have_one_order_and_a_new_head_is_always_trained(
    text: str, *, has_head: bool, parts: tuple[str, ...]
) -> None:
    assert parts_of(text, has_head=has_head) == parts


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lorra", "'lorra'; there are: lora"),
        ("lora+lora", "twice"),
        ("full+lora", "full trains every weight already"),
        ("head", "no new one"),
        ("", "no part is called ''"),
    ],
)
def test_parts_that_cannot_be_are_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parts_of(text, has_head=False)


def test_an_unknown_family_is_refused_with_what_was_tried_and_what_is_supported() -> None:
    with pytest.raises(ConfigError, match=r"'gpt2'.*text-classification; tried .*bert.*supported types: .*roberta"):
        family_of(GPT2Config(), TEXT_CLASSIFICATION)


def test_every_family_says_how_its_layers_are_named_and_no_type_occurs_twice() -> None:
    for task in TASKS.values():
        types = [one for family in task.families for one in family.model_types]
        assert len(set(types)) == len(types)


def test_runtimes_are_compared_by_the_first_output_of_each_task() -> None:
    for task in TASKS.values():
        assert next(name for name in COMPARED_SCORES if name in task.outputs) == task.outputs[0]


def test_the_loss_of_a_language_model_counts_real_tokens_with_a_real_predecessor() -> None:
    logits = torch.zeros(2, 3, 10)  # after the last token nothing is asked
    logits[0, 1, 7] = 3.0  # sure of the third token, rightly
    ids, mask = torch.tensor([[1, 2, 7, 0], [3, 4, 5, 6]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    losses, hits = token_scores(logits, ids, mask)
    sure, unsure = math.log(9 + math.exp(3)) - 3, math.log(10)
    assert losses == pytest.approx(torch.tensor([[unsure, sure, 0], [unsure] * 3]), rel=1e-6)
    assert hits.tolist() == [[0, 1, 0], [0, 0, 0]]
    assert float(lm_loss(logits, ids, mask)) == pytest.approx((4 * unsure + sure) / 5, rel=1e-6)
    assert float(lm_loss(logits[:, :1], ids[:, :2], torch.tensor([[1, 0], [1, 0]]))) == 0


@pytest.mark.parametrize("n_prompt", [0, 3])
def test_a_language_model_learns_from_all_but_the_last_token_and_answers_behind_each(n_prompt: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = TINY["gpt2"].make().eval()
        if n_prompt:
            add_soft_prompt(decoder, n_virtual=n_prompt, after=0)
    ids, mask = torch.arange(2, 12).reshape(2, 5), torch.ones(2, 5, dtype=torch.int64)
    with torch.no_grad():
        asked, answered = (make(decoder)(ids, mask) for make in (CAUSAL_LM.wrap, CAUSAL_LM.infer))
        assert CAUSAL_LM.wrap(decoder)(ids[:, :1], mask[:, :1]).shape == (2, 0, 97)
    assert answered.shape == (2, 5, 97)
    assert asked == pytest.approx(answered[:, :-1], abs=1e-5)


def test_patches_are_cut_as_the_convolution_cuts_them() -> None:
    torch.manual_seed(0)
    conv, pixels = nn.Conv2d(3, 5, kernel_size=(2, 4), stride=(2, 4)), torch.randn(2, 3, 6, 8)
    expected = conv(pixels)
    module = nn.Sequential(conv)
    ImageClassifier(module)
    assert torch.allclose(module(pixels), expected, atol=1e-6)


def test_patches_that_overlap_are_refused() -> None:
    with pytest.raises(ConfigError, match="overlap"):
        ImageClassifier(nn.Sequential(nn.Conv2d(3, 5, kernel_size=3, stride=2)))


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
