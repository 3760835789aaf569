"""BERT, the sentence encoders made from it (MiniLM, BGE, E5 small), and encoders that kept its module names.

Read top to bottom, a task model of this family is::

    embeddings                     word + position + token type, LayerNorm
    encoder.layer.{i}
        attention.self             query, key, value            <- LoRA on query and value
        attention.output           dense, + input, LayerNorm
        intermediate               dense to 4 H, GELU
        output                     dense to H, + input, LayerNorm
    pooler                         dense and tanh of the first token (frozen, as pretrained)
    classifier                     the new head, trained in full

RoBERTa has no pooler here and a head of two layers (dense, tanh, out_proj) on the first token; ELECTRA the same with
GELU, and a projection of small embeddings to H below the layers. Both heads are new and trained in full.

Source: Devlin et al. 2018, arXiv:1810.04805; Liu et al. 2019, arXiv:1907.11692; Clark et al. 2020, arXiv:2003.10555.
LoRA on the query and value projections alone is the choice of Hu et al. 2021, arXiv:2106.09685, section 4.2, table 5.
"""

import re
from dataclasses import replace

from models.family import Family

__all__ = ["BERT", "ELECTRA", "ROBERTA"]

BERT = Family(
    name="bert",
    model_types=frozenset({"bert"}),
    default_targets=("query", "value"),
    backbone="bert",
    heads=("classifier",),
    layer_pattern=re.compile(r"(?:^|\.)encoder\.layer\.(\d+)\."),
    ia3_outputs=re.compile(r"\.attention\.self\.(?:key|value)$"),
    ia3_inputs=re.compile(r"\.layer\.\d+\.output\.dense$"),
    idle_biases=re.compile(r"\.attention\.self\.key\.bias$"),
    attention=re.compile(r"\.attention\.self$"),
    prompt_after=1,
)
# XLM-RoBERTa and CamemBERT are RoBERTa with other vocabularies, module for module.
ROBERTA = replace(
    BERT,
    name="roberta",
    model_types=frozenset({"roberta", "xlm-roberta", "camembert"}),
    backbone="roberta",
    positions_after_pad=True,
)
ELECTRA = replace(BERT, name="electra", model_types=frozenset({"electra"}), backbone="electra")
