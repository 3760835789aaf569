"""Fracast-0 out of its package: the released float32 weights as a folder that ``models.fracast`` loads.

Laws: of the package only its two data files are read, no code of it is run; a file of another structure makes nothing;
what is made appears whole, by one rename.
"""

import json
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigError

__all__ = ["build"]

N_TENSORS: Final = 47
# The release's modules by our names for them.
_NAMES: Final = {
    "core.in_proj.": "in_proj.",
    "core.periodic.proj.": "periodic.",
    "core.block.dw_": "block.mix.",
    "core.block.pw.": "block.pw.",
    "core.block.ffn.": "block.ffn.",
    "core.block.norm1.": "block.norm_mix.",
    "core.block.norm2.": "block.norm_ffn.",
    "core.scale.to_gb.": "scale.",
    "core.norm.": "norm.",
    "head.summary_proj.": "summary.",
    "head.queries": "queries",
    "head.decoder_ffns.0.": "decoder.",
    "head.decoder_norms.0.": "decoder_norm.",
    "head.fc_blocks.0.dw_": "filters.0.",
    "head.fc_blocks.1.dw_": "filters.1.",
    "head.fc_blocks.0.norm.": "filter_norms.0.",
    "head.fc_blocks.1.norm.": "filter_norms.1.",
    "head.future_conv.in_proj.": "future_in.",
    "head.future_conv.block.dw_": "future_block.mix.",
    "head.future_conv.block.pw.": "future_block.pw.",
    "head.future_conv.block.ffn.": "future_block.ffn.",
    "head.future_conv.block.norm1.": "future_block.norm_mix.",
    "head.future_conv.block.norm2.": "future_block.norm_ffn.",
    "head.future_conv.out_proj.": "future_out.",
    "head.out_proj.": "out_proj.",
}
# What of the release's configuration ``models.fracast`` does in one way only.
_EXPECTED: Final = {
    "d_model": 64,
    "W": 2048,
    "horizon": 48,
    "n_stages": 10,
    "dilation_base": 2,
    "kernel_size": 3,
    "head_d_ff": 96,
    "head_layers": 1,
    "head_fc_layers": 2,
    "periodic_topk": 4,
    "periodic_harmonics": 1,
    "periodic_min_period": 2,
    "scale_cond": "film",
    "scale_cond_dim": 8,
    "head_future_conv": True,
    "head_output_mode": "direct",
    "quantiles": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
}

Weights = dict[str, NDArray[np.float32]]


def build(package: Path, folder: Path) -> None:
    """Write the ``folder`` of the model inside ``package``, a folder of the installed package.

    Raises:
        ConfigError: a file is missing or is of another model (whoever published or changed the package).
    """
    from safetensors import SafetensorError  # noqa: PLC0415 - the exporter's alone
    from safetensors.numpy import load_file, save_file  # noqa: PLC0415

    try:
        facts = json.loads((package / "weights" / "config.json").read_bytes())["model"]
        weights = _renamed(load_file(package / "weights" / "model.safetensors"))
        _refuse_others(facts)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        message = f"the package fracast holds no model as version 0.1.0 does: {error}"
        raise ConfigError(message) from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as name:
        made = Path(name) / folder.name
        made.mkdir()
        (made / "config.json").write_text(json.dumps({"model_type": "fracast"}), "utf-8")
        save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
        if not folder.exists():
            made.rename(folder)


def _refuse_others(facts: dict[str, object]) -> None:
    other = sorted(name for name, value in _EXPECTED.items() if facts.get(name) != value)
    if other:
        message = f"config.json differs in {', '.join(other)}"
        raise ValueError(message)


def _renamed(released: Weights) -> Weights:
    found: Weights = {}
    if len(released) != N_TENSORS:
        message = f"model.safetensors has {len(released)} tensors in place of {N_TENSORS}"
        raise ValueError(message)
    for name, value in released.items():
        theirs = max((one for one in _NAMES if name.startswith(one)), key=len)  # ValueError: no such module
        ours = _NAMES[theirs] + name.removeprefix(theirs)
        # A filter's taps: [channel, 1, tap] there, [tap, channel] here.
        found[ours] = np.ascontiguousarray(value[:, 0].T if value.ndim == 3 else value, np.float32)
    return found
