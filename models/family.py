"""What the exporter must know about one foundation-model family, as a value.

Laws: a family file (``bert.py``, ...) holds its ``Family`` values and nothing else that other files need; adding a
family is adding a file and a line in the task that uses it. This file knows no model and imports no ML framework.
"""

import re
from dataclasses import dataclass

__all__ = ["Family"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The facts by which one family's modules are found and named.

    Patterns are searched in the names of the task model's modules (``ia3_*``) or parameters (the others).
    """

    name: str
    model_types: frozenset[str]  # Hugging Face ``config.model_type`` values that belong to the family
    default_targets: tuple[str, ...]  # the linear layers that LoRA adapts unless the caller names others
    backbone: str  # the attribute of the task model that holds the pretrained part; left out of tensor names
    heads: tuple[str, ...]  # the attributes that hold what is new in the task model; none: it is used as pretrained
    layer_pattern: re.Pattern[str]  # group 1 is the number of the layer that a tensor belongs to
    ia3_outputs: re.Pattern[str]  # layers whose output IA3 scales: keys and values
    ia3_inputs: re.Pattern[str]  # layers whose input IA3 scales: the second of the feed-forward pair
    # Biases whose gradient is zero but for rounding: one number added to all scores of a query, which softmax cancels.
    # AdamW would blow the rounding up to full steps, so they are never trained.
    idle_biases: re.Pattern[str] | None = None
    attention: re.Pattern[str] | None = None  # modules that a prefix gets its keys and values in; None: none can
    positions_after_pad: bool = False  # positions are counted from the pad id on, so the table holds fewer tokens
    prompt_after: int = 0  # how many tokens stand before a soft prompt: one where the head reads the first token

    def layer_of(self, name: str) -> int | None:
        """Return the layer number in a tensor's name, or None for a tensor outside the layers."""
        found = self.layer_pattern.search(name)
        return int(found.group(1)) if found else None
