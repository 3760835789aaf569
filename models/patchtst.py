"""PatchTST: a series is cut into patches, and each channel is a sequence of them.

Read top to bottom, a model is::

    model.scaler                   mean and deviation of the window taken off, and put back at the end
    model.patchifier               windows of patch_length, every patch_stride
    model.encoder.embedder         a linear layer on each patch, positions
    model.encoder.layers.{i}
        self_attn                  q_proj, k_proj, v_proj, out_proj     <- LoRA on q_proj and v_proj
        norm_sublayer1, 3          BatchNorm (as pretrained, never updated) or LayerNorm
        ff                         linear to 4 H, GELU, linear to H
    head                           a linear layer from all patches to the horizon, trained in full

Source: Nie et al. 2022, arXiv:2211.14730.
"""

import re

from models.family import Family

__all__ = ["PATCHTST"]

PATCHTST = Family(
    name="patchtst",
    model_types=frozenset({"patchtst"}),
    default_targets=("q_proj", "v_proj"),
    backbone="model",
    heads=("head",),
    layer_pattern=re.compile(r"(?:^|\.)layers\.(\d+)\."),
    ia3_outputs=re.compile(r"\.self_attn\.(?:k_proj|v_proj)$"),
    ia3_inputs=re.compile(r"\.ff\.3$"),
    attention=re.compile(r"\.self_attn$"),
    idle_biases=re.compile(r"\.self_attn\.k_proj\.bias$"),
)
