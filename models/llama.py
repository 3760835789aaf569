"""LLaMA and the decoders that kept its module names: Qwen2, Mistral, Gemma.

Read top to bottom, a model of this family is::

    embed_tokens                   no positions here: queries and keys are rotated
    layers.{i}
        input_layernorm            RMSNorm
        self_attn                  q_proj, k_proj, v_proj, o_proj; a key for several queries   <- LoRA on q and v
        post_attention_layernorm   RMSNorm
        mlp                        down_proj(act(gate_proj x) * up_proj x)
    norm, lm_head                  RMSNorm; the words, as pretrained

Qwen2 has biases on q, k and v (no idle one: a rotated bias does not cancel), Mistral attends to a window, Gemma scales
its embeddings and has GELU for SiLU.

Source: Touvron et al. 2023, arXiv:2302.13971; Yang et al. 2024, arXiv:2407.10671; Jiang et al. 2023, arXiv:2310.06825;
Gemma Team 2024, arXiv:2403.08295.
"""

import re

from models.family import Family

__all__ = ["LLAMA"]

LLAMA = Family(
    name="llama",
    model_types=frozenset({"llama", "qwen2", "mistral", "gemma"}),
    default_targets=("q_proj", "v_proj"),
    backbone="model",
    heads=(),
    layer_pattern=re.compile(r"(?:^|\.)layers\.(\d+)\."),
    ia3_outputs=re.compile(r"\.self_attn\.(?:k_proj|v_proj)$"),
    ia3_inputs=re.compile(r"\.mlp\.down_proj$"),
    attention=re.compile(r"\.self_attn$"),
)
