"""ViT, DeiT and DINOv2: a picture is a sequence of patches.

Read top to bottom, a ViT is::

    embeddings                     a linear layer on each patch, a class token in front, positions
    layers.{i}
        layernorm_before           pre-norm
        attention                  q_proj, k_proj, v_proj, o_proj       <- LoRA on q_proj and v_proj
        layernorm_after
        mlp                        fc1 to 4 H, GELU, fc2 to H
    layernorm
    classifier                     the new head: of the class token; in DINOv2 beside the mean of the patches

DeiT has a second token, from its distillation, that the head does not read; DINOv2 scales what each part adds.

Source: Dosovitskiy et al. 2020, arXiv:2010.11929; Touvron et al. 2020, arXiv:2012.12877; Oquab et al. 2023,
arXiv:2304.07193.
"""

import re
from dataclasses import replace

from models.family import Family

__all__ = ["DEIT", "DINOV2", "VIT"]

VIT = Family(
    name="vit",
    model_types=frozenset({"vit"}),
    default_targets=("q_proj", "v_proj"),
    backbone="vit",
    heads=("classifier",),
    layer_pattern=re.compile(r"(?:^|\.)layers?\.(\d+)\."),
    ia3_outputs=re.compile(r"\.attention\.(?:k_proj|v_proj)$"),
    ia3_inputs=re.compile(r"\.mlp\.fc2$"),
    attention=re.compile(r"\.\d+\.attention$"),
    idle_biases=re.compile(r"\.attention\.k_proj\.bias$"),
)
DEIT = replace(VIT, name="deit", model_types=frozenset({"deit"}), backbone="deit")
DINOV2 = replace(VIT, name="dinov2", model_types=frozenset({"dinov2"}), backbone="dinov2")
