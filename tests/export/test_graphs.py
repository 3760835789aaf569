"""The exported graphs against PyTorch autograd, at every kind of shape."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from edge_agent.trainer.portable import PortableEngine, open_engine
from export.adapt import Adapted
from export.bundle import Exported
from models import text_classification as task
from models.adapters import named_trainables
from protocol.errors import ConfigError

# float32 through two layers: measured below 1e-6 of the largest value; a wrong formula is off by 1e-2 and more.
CLOSE = 2e-5
MakeBatch = Callable[..., dict[str, np.ndarray]]


def torch_side(
    adapted: Adapted, theta: np.ndarray, batch: dict[str, np.ndarray]
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return loss, gradient and logits by autograd on the model as peft made it."""
    flat = torch.from_numpy(theta).requires_grad_()
    values = {f"model.{n}": v for n, v in named_trainables(flat, adapted.trainables).items()}
    tokens = (torch.from_numpy(batch["input_ids"]), torch.from_numpy(batch["attention_mask"]))
    logits = torch.func.functional_call(task.Classifier(adapted.model), values, tokens)
    loss = task.loss(logits, torch.from_numpy(batch["labels"]))
    (gradient,) = torch.autograd.grad(loss, flat)
    return float(loss), gradient.numpy(), logits.detach().numpy()


@pytest.fixture(scope="module")
def engine(exported: Exported) -> PortableEngine:
    return open_engine(exported.folder, exported.manifest, threads=1)


@pytest.mark.parametrize(
    ("n_examples", "n_tokens"), [(1, 1), (1, 2), (2, 1), (1, 20), (3, 7), (2, 2), (5, 11), (13, 20), (40, 3)]
)
def test_loss_gradient_and_logits_are_those_of_pytorch_at_any_batch_and_length(
    n_examples: int, n_tokens: int, adapted: Adapted, engine: PortableEngine, make_batch: MakeBatch
) -> None:
    batch = make_batch(n_examples, n_tokens, seed=n_examples * 100 + n_tokens)
    theta = adapted.theta + np.random.default_rng(1).normal(0, 0.1, adapted.theta.size).astype(np.float32)
    loss, gradient, logits = torch_side(adapted, theta, batch)
    actual_loss, actual_gradient = engine.loss_and_gradient(theta, batch)
    assert actual_loss == pytest.approx(loss, rel=CLOSE)
    assert np.abs(actual_gradient - gradient).max() <= CLOSE * np.abs(gradient).max()
    assert np.abs(engine.scores(theta, batch)["logits"] - logits).max() <= CLOSE * np.abs(logits).max()


def test_padding_changes_nothing(adapted: Adapted, engine: PortableEngine, make_batch: MakeBatch) -> None:
    batch = make_batch(4, 9)
    wide = {name: np.pad(batch[name], ((0, 0), (0, 6))) for name in ("input_ids", "attention_mask")}
    assert engine.scores(adapted.theta, wide)["logits"] == pytest.approx(
        engine.scores(adapted.theta, batch)["logits"], abs=1e-5
    )


@pytest.mark.parametrize("name", ["train.onnx", "eval.onnx"])
def test_a_graph_has_standard_operators_only_and_no_notes_of_the_machine(name: str, exported: Exported) -> None:
    data = (exported.folder / name).read_bytes()
    model = onnx.load(exported.folder / name, load_external_data=False)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert {node.domain for node in model.graph.node} == {""}
    assert model.ir_version <= 10
    assert not model.functions
    assert b".py" not in data
    onnx.checker.check_model(str(exported.folder / name))


def test_the_inputs_and_outputs_are_the_contract(exported: Exported) -> None:
    def facts(values: object) -> list[tuple[str, int, int]]:
        return [(v.name, v.type.tensor_type.elem_type, len(v.type.tensor_type.shape.dim)) for v in values]  # type: ignore[attr-defined]

    f32, i64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    tokens = [("theta", f32, 1), ("input_ids", i64, 2), ("attention_mask", i64, 2)]
    train = onnx.load(exported.folder / "train.onnx", load_external_data=False).graph
    evaluate = onnx.load(exported.folder / "eval.onnx", load_external_data=False).graph
    assert facts(train.input) == [*tokens, ("labels", i64, 1)]
    assert facts(train.output) == [("loss", f32, 0), ("grad", f32, 1)]
    assert facts(evaluate.input) == tokens
    assert facts(evaluate.output) == [("logits", f32, 2)]


def test_weights_lie_on_pages_of_one_plainly_named_file_and_integers_stay_inside(exported: Exported) -> None:
    import export.pack as pack_pass

    for name in ("train.onnx", "eval.onnx"):
        for tensor in onnx.load(exported.folder / name, load_external_data=False).graph.initializer:
            external = {entry.key: entry.value for entry in tensor.external_data}
            if external:
                assert tensor.data_type == onnx.TensorProto.FLOAT
                assert external["location"] == "weights.bin"
                assert int(external["offset"]) % pack_pass.PAGE_BYTES == 0


def test_the_training_graph_multiplies_no_transposed_copy_of_a_weight(exported: Exported) -> None:
    graph = onnx.load(exported.folder / "train.onnx", load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    assert not [node.name for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]


def test_a_batch_that_does_not_fit_is_the_callers_fault(
    adapted: Adapted, engine: PortableEngine, make_batch: MakeBatch
) -> None:
    batch = make_batch(2, 5)
    with pytest.raises(ConfigError, match="theta"):
        engine.scores(adapted.theta[:-1], batch)
    with pytest.raises(ConfigError):
        engine.scores(adapted.theta, {"input_ids": batch["input_ids"]})


def test_the_layout_names_what_lies_in_the_vector(exported: Exported, adapted: Adapted) -> None:
    from protocol.layout import Layout

    layout = Layout.from_bytes((exported.folder / "layout.json").read_bytes())
    slots = {slot.name: slot for slot in layout.tensors}
    assert len(slots) == 2 * 2 * 2 + 2  # layers x (query, value) x (A, B), head weight and bias
    pair = "encoder.layer.1.attention.self.value.lora_"
    assert (slots[pair + "A"].shape, slots[pair + "B"].shape) == ((2, 24), (24, 2))
    assert (slots[pair + "A"].role, slots[pair + "A"].layer, slots[pair + "A"].scale) == ("lora_A", 1, 2.0)
    assert (slots["classifier.weight"].role, slots["classifier.weight"].shape) == (
        "head",
        (exported.manifest.task.n_labels, 24),
    )
    b = slots[pair + "B"]
    assert not adapted.theta[b.offset : b.offset + b.n_values].any()
    assert layout.n_params == adapted.theta.size == exported.manifest.adapter.n_params
