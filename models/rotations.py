"""Rotary positions whose frequencies follow the text: fixed where that changes nothing, refused where it would.

transformers looks at the longest text of a batch and may compute other frequencies for it, which is a branch on values
and cannot be traced. "dynamic" does so beyond the positions that a model was made for, and no text here is longer than
these; so its frequencies are those it begins with. "longrope" has two sets, for texts below and above a length.

Source: Peng et al. 2023, arXiv:2309.00071, appendix B.2, for dynamic scaling; Ding et al. 2024, arXiv:2402.13753, for
the two sets.
"""

from torch import nn

from protocol.errors import ConfigError

__all__ = ["fix_rotations"]


def fix_rotations(model: nn.Module) -> None:
    """Let every rotation of ``model`` keep the frequencies that it begins with.

    Raises:
        ConfigError: it has two sets of them (the model's fault).
    """
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if kind == "dynamic":
            module.rope_type = "default"  # type: ignore[assignment]
        elif kind == "longrope":
            message = (
                "rope type 'longrope' has other frequencies for long texts than for short ones, which one graph cannot "
                "have; supported: default, linear, dynamic, yarn, llama3"
            )
            raise ConfigError(message)
