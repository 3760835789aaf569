"""The settings: a whole file, defaults, relative paths, and one clear line for each mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aggregator.config import load_config
from protocol.errors import ConfigError
from protocol.plan import Codec, Optimizer, Plan

if TYPE_CHECKING:
    from pathlib import Path

SMALL = """
[service]
fleet = "demo"
folder = "state"
key = "service.key"
[devices]
registry = "devices.toml"
[[task]]
id = "sentiment"
bundle = "bundle"
rounds = 6
cohort = 4
min_cohort = 2
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "aggregator.toml"
    path.write_text(text)
    return path


def test_a_small_file_gets_reasoned_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, SMALL))
    (task,) = config.task
    assert config.broker.url is None
    assert (config.broker.host, config.broker.port) == ("127.0.0.1", 1883)
    assert task.plan == Plan(optimizer=Optimizer(), codec=Codec())
    assert (task.strategy, task.broadcast, task.evaluation) == ("fedavg", "float16", None)
    assert not config.service.keep_folded_updates


def test_relative_paths_are_relative_to_the_files_folder(tmp_path: Path) -> None:
    text = SMALL + '[task.evaluation]\nsets = {tweets = "data/tweets.jsonl", films = "/data/films.jsonl"}\n'
    config = load_config(write(tmp_path, text))
    assert config.service.folder == str(tmp_path / "state")
    assert config.devices.registry == str(tmp_path / "devices.toml")
    assert config.task[0].bundle == str(tmp_path / "bundle")
    evaluation = config.task[0].evaluation
    assert evaluation is not None
    assert evaluation.sets == {"tweets": str(tmp_path / "data/tweets.jsonl"), "films": "/data/films.jsonl"}


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('fleet = "demo"\n', "", "service.fleet: missing"),
        ('key = "service.key"\n', "", "service.key: missing"),
        ('fleet = "demo"', 'fleet = "de/mo"', "service.fleet: expected lower-case letters"),
        ("rounds = 6", 'rounds = "6"', r"task\[0\].rounds: expected int, got str"),
        ("rounds = 6", "rounds = 0", r"task\[0\].rounds: expected 1 to"),
        ("rounds = 6", "round = 6", r"task\[0\].round: unknown key"),
        ("min_cohort = 2", "min_cohort = 5", r"task\[0\]: min_cohort: 5 is more than cohort = 4"),
        ("cohort = 4", 'cohort = 4\nstrategy = "magic"', r"task\[0\]: strategy: expected one of fedavg"),
        ("cohort = 4", "cohort = 4\nstrategy_options = {mu = 1}", r"task\[0\]: strategy_options.mu: unknown key"),
        ("[devices]", '[broker]\nkind = "nats"\n[devices]', "broker.kind: expected one of auto"),
        ("[devices]", "[broker]\nport = 70000\n[devices]", "broker.port: expected 0 to 65535"),
        ("[[task]]", "[task]", "task: expected an array"),
        ("[service]", "[service", "not valid TOML"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_key(old: str, new: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=line):
        load_config(write(tmp_path, SMALL.replace(old, new)))


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    text = SMALL + SMALL[SMALL.index("[[task]]") :]
    with pytest.raises(ConfigError, match="the id sentiment occurs twice"):
        load_config(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(tmp_path / "nowhere.toml")
