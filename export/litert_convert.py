"""Child process of export: traced steps of fixed shape become one LiteRT file with a signature each.

Runs in the environment ``litert-export`` (``python -m export.litert_convert OUT NAME=STEP.pt2 ...``): litert-torch
brings packages that the exporter's own exclude. One file, since its signatures share the frozen weights.
"""

import sys
from pathlib import Path
from typing import Any

import litert_torch
import torch

__all__ = ["convert"]


def convert(out: Path, steps: dict[str, Path]) -> None:
    """Write the steps (programs of ``torch.export.save`` with named arguments) as signatures of the file ``out``."""
    conversion: Any = litert_torch
    for name, path in steps.items():
        program = torch.export.load(path)
        _, arguments = program.example_inputs or ((), {})
        module = program.module(check_guards=False)
        conversion = conversion.signature(name, module, sample_kwargs=arguments)
    conversion.convert(strict_export=False).export(str(out))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), {name: Path(path) for name, _, path in (one.partition("=") for one in sys.argv[2:])})
