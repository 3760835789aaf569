"""What storage can do to a service, done for real: full, read-only, half-written, and clocks that jump."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from protocol.errors import StorageError
from protocol.messages import Work
from tests.aggregator.workbench import TASK, Bench

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]

# A service in a child, on a disk that takes files of at most so many bytes: plays a round and says how it ended.
FULL = """
import resource, signal, sys
from pathlib import Path
from protocol.errors import StorageError
from tests.aggregator.workbench import Bench
bench = Bench(Path(sys.argv[1]))
devices = [bench.device("a"), bench.device("b")]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    bench.play(*devices)
except StorageError as error:
    print("StorageError", error)
"""


@pytest.mark.parametrize("limit", [100, 20_000])  # no room for a blob; for blobs, but not for the database's log
def test_a_full_disk_is_a_storage_error_and_the_next_start_goes_on(tmp_path: Path, limit: int) -> None:
    folder = tmp_path / "bench"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder), str(limit)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("StorageError"), done.stdout + done.stderr
    bench = Bench(folder)
    bench.play(bench.device("a"), bench.device("b"), rounds=2)
    assert bench.runner.is_finished
    assert bench.store.blobs_in_use(keep_folded=True) == set(bench.blobs.sizes())
    bench.stop()


def test_a_read_only_folder_is_a_storage_error_and_the_next_start_goes_on(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    devices = [bench.device("a"), bench.device("b")]
    for device in devices:
        device.join()
        bench.settle()
    if os.geteuid() == 0:  # root writes whatever the mode says: the error is the kernel's, made here

        def refused(*_arguments: object, **_facts: object) -> tuple[int, str]:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("tempfile.mkstemp", refused)
    else:
        bench.blob_folder.chmod(0o500)
    devices[0].update()
    with pytest.raises(StorageError, match=r"(?i)read-only|permission"):
        bench.settle()
    monkeypatch.undo()
    bench.blob_folder.chmod(0o700)
    bench.restart()
    bench.settle()  # the update was not acknowledged, so it came again
    devices[1].update()
    bench.settle()
    assert bench.version == 1
    assert [one.device for one in bench.store.updates(TASK, 1)] == ["a", "b"]


def test_a_half_written_blob_is_found_by_its_hash_and_nothing_is_folded_from_it(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    devices = [bench.device("a"), bench.device("b")]
    for device in devices:
        device.join()
        bench.settle()
    devices[0].update()
    bench.settle()
    path = bench.blob_folder / bench.store.updates(TASK, 1)[0].blob
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    devices[1].update()
    with pytest.raises(StorageError, match="its content has changed"):
        bench.settle()
    assert (bench.version, bench.round_state) == (0, "closing")
    path.write_bytes(whole)  # as from a backup
    bench.restart()
    bench.settle()
    assert bench.version == 1


@pytest.mark.parametrize("jump_s", [-(10**8), 10**8])
def test_a_clock_that_jumps_neither_closes_a_round_nor_keeps_it_open(
    make_bench: Callable[..., Bench], jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(min_cohort=1)
    devices = [bench.device("a"), bench.device("b")]
    for device in devices:
        device.join()
        bench.settle()
    devices[0].update()
    bench.settle()
    real = bench.clock.unix_s
    monkeypatch.setattr(bench.clock, "unix_s", lambda: real() + jump_s)
    bench.settle()
    assert bench.round_state == "open"  # the jump is not time that passed
    bench.restart()  # the deadline that was kept is years away, or years ago
    bench.settle()
    assert bench.round_state == "open"
    assert 0 < bench.runner.seconds_left <= 100  # type: ignore[attr-defined]  # a synchronous round's
    devices[1].update()
    bench.settle()
    assert bench.version == 1
    for device in devices:
        device.join()
        bench.settle()
    assert devices[0].last(Work).round == 2
    assert bench.store.answer_times(TASK, 1).keys() == {"a", "b"}
    assert min(bench.store.answer_times(TASK, 1).values()) >= 0
