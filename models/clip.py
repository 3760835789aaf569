"""CLIP: a tower for pictures, a tower for texts, and one space that both point into.

Read top to bottom, a model is::

    vision_model                   a ViT (see vit.py): patches, class token, pre-norm layers
    text_model                     a decoder without a head: words, positions, layers that look back
        encoder.layers.{i}         self_attn q_proj, k_proj, v_proj, out_proj   <- LoRA on q_proj and v_proj of both
                                   mlp fc1 to 4 H, GELU, fc2 to H
    visual_projection              of the class token
    text_projection                of the text's last token
    logit_scale                    how much a cosine counts, as a logarithm

Source: Radford et al. 2021, arXiv:2103.00020.
"""

import re

from models.family import Family

__all__ = ["CLIP"]

CLIP = Family(
    name="clip",
    model_types=frozenset({"clip"}),
    default_targets=("q_proj", "v_proj"),
    backbone="clip",
    heads=(),
    layer_pattern=re.compile(r"(?:^|\.)layers\.(\d+)\."),
    ia3_outputs=re.compile(r"\.self_attn\.(?:k_proj|v_proj)$"),
    ia3_inputs=re.compile(r"\.mlp\.fc2$"),
    attention=re.compile(r"\.self_attn$"),
    idle_biases=re.compile(r"\.self_attn\.k_proj\.bias$"),
    prompt_after=1,  # the mark of a text's begin
)
