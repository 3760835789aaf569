"""A task with a gate for virtual devices: a bundle that can really be measured, and an evaluation set.

Laws: the model is tiny and random and so are the texts and their labels, so that some versions are refused and some are
promoted; the exporter and PyTorch run as processes, and the same seed gives the same bundle and set.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from host.durable import make_folder, write_bytes
from protocol.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["GATE", "GatedTask", "write_gated_task"]

# By loss, which every version changes, where 64 examples have but 65 accuracies. The margin is what a fold of random
# updates moves it by: without one a seed may have all of its versions refused.
GATE: Final[dict[str, Any]] = {"metric": "loss", "margin": 0.003}
_MODEL: Final = "import sys, pathlib; from models.tiny import write_tiny; write_tiny('bert', pathlib.Path(sys.argv[1]))"
_WORDS: Final = range(2, 97)  # that the tiny model's tokenizer knows
_N_EXAMPLES: Final = 64
_RANK: Final = 2  # few parameters, of which the head is a good part
_DEADLINE_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedTask:
    """Where the parts are."""

    bundle: Path
    test_set: Path

    @property
    def settings(self) -> dict[str, Any]:
        """The keys of the task's table that make the gate."""
        return {"evaluation": {"sets": {"all": str(self.test_set.resolve())}}, "gate": GATE}


def write_gated_task(folder: Path, *, seed: int) -> GatedTask:
    """Export a tiny random BERT with LoRA into ``folder`` and write its evaluation set (half a minute).

    Raises:
        EngineError: PyTorch or the exporter fail, as without edgefold[export].
        StorageError: the disk refuses.
    """
    make_folder(folder)
    model, bundle, test_set = folder / "model", folder / "bundle", folder / "test.jsonl"
    options = ["--task", "text-classification", "--labels", "2", "--rank", str(_RANK), "--max-tokens", "16"]
    _run("-c", _MODEL, str(model))
    _run("-m", "edgefold", "export", str(model), *options, "--out", str(bundle))
    write_bytes(test_set, _examples(seed).encode())
    return GatedTask(bundle=bundle, test_set=test_set)


def _examples(seed: int) -> str:
    rng = random.Random(seed)  # noqa: S311 - data
    drawn = [(rng.choices(_WORDS, k=rng.randint(4, 12)), rng.randrange(2)) for _ in range(_N_EXAMPLES)]
    lines = [json.dumps({"text": " ".join(f"w{one}" for one in words), "label": label}) for words, label in drawn]
    return "\n".join(lines) + "\n"


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=_DEADLINE_S
    )
    if done.returncode != 0:
        raise EngineError(f"a bundle with a gate: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
