"""A task's key is rotated by rounds and on demand: devices follow, the old key goes, and nothing sealed to it opens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from aggregator.adapters.task_keys import FolderTaskKeys
from aggregator.core.records import CommandRecord
from aggregator.dp_settings import DpSettings
from aggregator.privacy_settings import PrivacySettings
from aggregator.task_cli import task as task_command
from protocol.errors import StorageError
from protocol.fields import FieldError
from protocol.messages import Work
from tests.aggregator.workbench import TASK, Bench

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_each_round_has_the_newest_key_that_begins_before_it(tmp_path: Path) -> None:
    keys = FolderTaskKeys(tmp_path / "keys" / "t.taskkey", make=True)
    keys.begin(4)
    keys.begin(4)
    again = FolderTaskKeys(tmp_path / "keys" / "t.taskkey", make=True)
    for one in (keys, again):
        assert one.of_round(1).raw == one.of_round(3).raw == keys.of_round(1).raw
        assert one.of_round(4).raw == one.of_round(99).raw == keys.of_round(4).raw
    assert keys.of_round(3).raw != keys.of_round(4).raw
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_a_destroyed_key_is_gone_and_no_new_first_key_is_made(tmp_path: Path) -> None:
    first = tmp_path / "keys" / "t.taskkey"
    keys = FolderTaskKeys(first, make=True)
    keys.begin(4)
    keys.end_before(3)
    assert keys.of_round(3)
    keys.end_before(4)
    assert not first.exists()
    for one in (keys, FolderTaskKeys(first, make=True)):
        with pytest.raises(StorageError, match="round 3 was destroyed"):
            one.of_round(3)
        assert one.of_round(4).raw == keys.of_round(4).raw
    assert not first.exists()


def rotating(make_bench: Callable[..., Bench], name: str, *, keep: bool, every: int = 1) -> Bench:
    bench = make_bench(name, rounds=3, privacy=PrivacySettings(rotate_key_rounds=every))
    bench.keep_folded_updates = keep
    bench.restart()
    return bench


def test_devices_follow_and_the_old_key_is_destroyed_when_its_last_round_is_over(
    make_bench: Callable[..., Bench],
) -> None:
    bench = rotating(make_bench, "bench", keep=False)
    a, b = bench.device("a"), bench.device("b")
    first = bench.setup.keys.of_round(1)
    bench.play(a, b)
    bench.restart()
    bench.play(a, b, rounds=2)
    assert bench.version == 3
    keys = [work.task_key for work in a.all(Work)]
    assert len(set(keys)) == 3
    assert keys[0] == first.public_raw
    files = b"".join(path.read_bytes() for path in bench.folders.task_key(TASK).parent.iterdir())
    assert first.raw.hex().encode() not in files
    with pytest.raises(StorageError):
        bench.setup.keys.of_round(1)


def test_with_kept_updates_the_keys_are_kept_too(make_bench: Callable[..., Bench]) -> None:
    bench = rotating(make_bench, "bench", keep=True)
    a, b = bench.device("a"), bench.device("b")
    first = bench.setup.keys.of_round(1).raw
    bench.play(a, b, rounds=2)
    assert bench.setup.keys.of_round(1).raw == first


def test_an_update_sealed_to_the_key_of_its_round_is_taken_after_a_rotation_was_asked_for(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench("bench")
    a, b = bench.device("a"), bench.device("b")
    for device in (a, b):
        device.join()
        bench.settle()
    assert asked(bench) is None
    for device in (a, b):
        device.update()
        bench.settle()
    assert (bench.version, bench.refusals()) == (1, {})
    before = a.last(Work).task_key
    a.join()
    bench.settle()
    assert a.last(Work).task_key != before


def asked(bench: Bench) -> str | None:
    command = CommandRecord(
        command=1, task=TASK, verb="rotate-key", version=None, status="waiting", why="", asked_unix_s=0.0
    )
    return bench.runner.obey(command)


def test_a_key_that_sampling_is_drawn_from_stays() -> None:
    dp = DpSettings(mode="central", epsilon=8.0, delta=1e-5, clip=1.0, population=100, sampling="poisson")
    with pytest.raises(FieldError, match="rotate_key_rounds"):
        PrivacySettings(dp=dp, rotate_key_rounds=2)


def test_the_command_says_what_it_does() -> None:
    shown = CliRunner().invoke(task_command, ["rotate-key", "--help"])
    assert shown.exit_code == 0
    assert "from the next round on" in shown.output
