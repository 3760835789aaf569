"""GPT-2, and GPT-Neo and OPT of its time: learned positions, LayerNorm before each part, GELU or ReLU.

Read top to bottom, a GPT-2 is::

    wte + wpe                      word and position
    h.{i}
        ln_1, attn                 c_attn gives query, key and value at once, c_proj   <- LoRA on c_attn
        ln_2, mlp                  c_fc to 4 H, GELU, c_proj to H
    ln_f, lm_head                  the word embeddings again, as pretrained

OPT has q_proj, k_proj, v_proj instead of c_attn, and ReLU between fc1 and fc2. In GPT-Neo they are in attn.attention,
queries are not scaled, and every second layer sees a window.

Source: Radford et al. 2019; Black et al. 2021, doi:10.5281/zenodo.5297715; Zhang et al. 2022,
arXiv:2205.01068. LoRA on the attention's query and
value is Hu et al. 2021; in GPT-2 they come with the key out of one layer, as in their released code.
"""

import re

from models.family import Family

__all__ = ["GPT2", "GPT_NEO", "OPT"]

GPT2 = Family(
    name="gpt2",
    model_types=frozenset({"gpt2"}),
    default_targets=("c_attn",),
    backbone="transformer",
    heads=(),
    layer_pattern=re.compile(r"(?:^|\.)h\.(\d+)\."),
    ia3_outputs=re.compile(r"\.attn\.c_attn$"),
    ia3_inputs=re.compile(r"\.mlp\.c_proj$"),
    attention=re.compile(r"\.attn$"),
    # The middle third of it is the key's, which is idle; the whole is left out, since a part cannot be.
    idle_biases=re.compile(r"\.attn\.c_attn\.bias$"),
)
OPT = Family(
    name="opt",
    model_types=frozenset({"opt"}),
    default_targets=("q_proj", "v_proj"),
    backbone="model",
    heads=(),
    layer_pattern=re.compile(r"(?:^|\.)layers\.(\d+)\."),
    ia3_outputs=re.compile(r"\.self_attn\.(?:k_proj|v_proj)$"),
    ia3_inputs=re.compile(r"\.fc2$"),
    attention=re.compile(r"\.self_attn$"),
    idle_biases=re.compile(r"\.self_attn\.k_proj\.bias$"),
)
# No bias on query, key and value; the attention is its own code, which no prefix can be put into.
GPT_NEO = Family(
    name="gpt-neo",
    model_types=frozenset({"gpt_neo"}),
    default_targets=("q_proj", "v_proj"),
    backbone="transformer",
    heads=(),
    layer_pattern=re.compile(r"(?:^|\.)h\.(\d+)\."),
    ia3_outputs=re.compile(r"\.attention\.(?:k_proj|v_proj)$"),
    ia3_inputs=re.compile(r"\.mlp\.c_proj$"),
)
