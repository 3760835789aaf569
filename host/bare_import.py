"""Imports a module of a package without running the package's own ``__init__``.

``onnxruntime.training`` imports torch when it is loaded, for parts not used here; its inner modules do without.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

__all__ = ["import_bare"]


def import_bare(package: str, module: str) -> Any:  # noqa: ANN401 - what a module holds is its own business
    """Return ``module``, which lies in ``package`` (``a.b``), while ``a.b`` itself stays empty.

    Raises:
        ImportError: the parent package or the module is not installed.
    """
    if package not in sys.modules:
        parent, _, name = package.rpartition(".")
        spec = importlib.util.find_spec(parent)
        places = None if spec is None else spec.submodule_search_locations
        bare = types.ModuleType(package)
        bare.__path__ = [str(Path(place) / name) for place in places or ()]
        sys.modules[package] = bare
    return importlib.import_module(module)
