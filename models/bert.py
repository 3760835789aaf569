"""BERT and the sentence encoders made from it (MiniLM, BGE, E5 small): an encoder of post-norm transformer layers.

Read top to bottom, a task model of this family is::

    embeddings                     word + position + token type, LayerNorm
    encoder.layer.{i}
        attention.self             query, key, value            <- LoRA on query and value
        attention.output           dense, + input, LayerNorm
        intermediate               dense to 4 H, GELU
        output                     dense to H, + input, LayerNorm
    pooler                         dense and tanh of the first token (frozen, as pretrained)
    classifier                     the new head, trained in full

Source: Devlin et al. 2018, arXiv:1810.04805. LoRA on the query and value projections alone is the choice of
Hu et al. 2021, arXiv:2106.09685, section 4.2 and table 5.
"""

import re

from models.family import Family

__all__ = ["BERT"]

BERT = Family(
    name="bert",
    model_types=frozenset({"bert"}),
    default_targets=("query", "value"),
    backbone="bert",
    head="classifier",
    layer_pattern=re.compile(r"(?:^|\.)encoder\.layer\.(\d+)\."),
)
