"""DistilBERT: BERT with half of the layers, no token types and no pooler.

Read top to bottom, a task model of this family is::

    embeddings                     word + position, LayerNorm
    transformer.layer.{i}
        attention                  q_lin, k_lin, v_lin, out_lin   <- LoRA on q_lin and v_lin
        sa_layer_norm              of attention + input
        ffn                        lin1 to 4 H, GELU, lin2 to H
        output_layer_norm          of ffn + input
    pre_classifier, classifier     the new head: dense and ReLU of the first token, then the labels

Source: Sanh et al. 2019, arXiv:1910.01108.
"""

import re

from models.family import Family

__all__ = ["DISTILBERT"]

DISTILBERT = Family(
    name="distilbert",
    model_types=frozenset({"distilbert"}),
    default_targets=("q_lin", "v_lin"),
    backbone="distilbert",
    heads=("pre_classifier", "classifier"),
    layer_pattern=re.compile(r"(?:^|\.)transformer\.layer\.(\d+)\."),
    ia3_outputs=re.compile(r"\.attention\.(?:k_lin|v_lin)$"),
    ia3_inputs=re.compile(r"\.ffn\.lin2$"),
    attention=re.compile(r"\.layer\.\d+\.attention$"),
    idle_biases=re.compile(r"\.attention\.k_lin\.bias$"),
    prompt_after=1,
)
