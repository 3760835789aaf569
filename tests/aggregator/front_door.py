"""What the tests of the service's commands share: a configuration file, and what a command said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.signing import SigningKey
from tests.aggregator.workbench import TASK

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[service]
fleet = "test"
folder = "state"
key = "service.key"
keep_folded_updates = {keep}
[broker]
url = "mqtt://127.0.0.1:9"
connect_deadline_s = 0.3
[devices]
registry = "devices.toml"
[[task]]
id = "{task}"
bundle = "bundle"
rounds = 2
cohort = 2
min_cohort = 2
"""


def write_config(folder: Path, *, task: str = TASK, keep: bool = True) -> Path:
    path = folder / "aggregator.toml"
    path.write_text(CONFIG.format(task=task, keep=str(keep).lower()))
    (folder / "devices.toml").write_text(f'[devices]\na = "{SigningKey(bytes(32)).public.raw.hex()}"\n')
    return path


class Ran:
    """What one command said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def line(self) -> str:
        """The one line of an error."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("edgefold: ")
        return lines[0]
