"""What the exporter must know about one foundation-model family, as a value.

Laws: a family file (``bert.py``, ...) holds one ``Family`` and nothing else that other files need; adding a family is
adding a file and a line in ``text_classification.py``. This file knows no model and imports no ML framework.
"""

import re
from dataclasses import dataclass

__all__ = ["Family"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The facts by which one family's modules are found and named."""

    name: str
    model_types: frozenset[str]  # Hugging Face ``config.model_type`` values that belong to the family
    default_targets: tuple[str, ...]  # the linear layers that LoRA adapts unless the caller names others
    backbone: str  # the attribute of the task model that holds the pretrained part; left out of tensor names
    head: str  # the attribute that holds the new task head
    layer_pattern: re.Pattern[str]  # group 1 is the number of the layer that a tensor belongs to

    def layer_of(self, name: str) -> int | None:
        """Return the layer number in a tensor's name, or None for a tensor outside the layers."""
        found = self.layer_pattern.search(name)
        return int(found.group(1)) if found else None
