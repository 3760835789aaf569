from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.device_folder import DeviceFolder
from edge_agent.core.session import Job, SessionState
from protocol.errors import ConfigError, StorageError
from protocol.jobs import RESIDUAL_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUNDLE = "b" * 64
JOB = Job(task="t", round=3, bundle_id=BUNDLE)
FIRST, SECOND = b"1" * 16, b"2" * 16


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DeviceFolder]:
    one = DeviceFolder(tmp_path / "state")
    yield one
    one.close()


def put_update(folder: DeviceFolder, update_id: bytes) -> None:
    (folder.scratch / RESIDUAL_FILE).write_bytes(b"r" * 8)
    folder.save_update(update_id, b"envelope")


def content(folder: DeviceFolder, update_id: bytes) -> bytes:
    n_bytes, read = folder.open_update(update_id)
    return read(0, 3) + read(3, n_bytes - 3)


def test_a_new_folder_has_an_idle_state(folder: DeviceFolder) -> None:
    assert folder.load_state() == SessionState()


def test_a_saved_state_comes_back_whole(folder: DeviceFolder) -> None:
    put_update(folder, FIRST)
    state = SessionState(phase="sending", job=JOB, update_id=FIRST, done={"t": 2}, residual_of={"t": FIRST})
    folder.save_state(state)
    assert folder.load_state() == state
    assert content(folder, FIRST) == b"envelope"


def test_files_that_no_state_names_are_removed(folder: DeviceFolder) -> None:
    put_update(folder, FIRST)
    put_update(folder, SECOND)
    folder.save_state(SessionState(phase="sending", job=JOB, update_id=SECOND))
    with pytest.raises(StorageError, match="missing"):
        folder.open_update(FIRST)
    assert not folder.residual_path(FIRST).exists()
    assert content(folder, SECOND) == b"envelope"


def test_the_residual_outlives_its_receipted_update(folder: DeviceFolder) -> None:
    put_update(folder, FIRST)
    folder.save_state(SessionState(done={"t": 3}, residual_of={"t": FIRST}))
    assert folder.residual_path(FIRST).read_bytes() == b"r" * 8
    with pytest.raises(StorageError):
        folder.open_update(FIRST)


def test_a_second_agent_is_refused(folder: DeviceFolder, tmp_path: Path) -> None:
    assert folder.scratch.is_dir()
    with pytest.raises(ConfigError, match="another agent"):
        DeviceFolder(tmp_path / "state")


def test_a_damaged_state_is_left_for_a_person(folder: DeviceFolder, tmp_path: Path) -> None:
    path = tmp_path / "state" / "state.cbor"
    path.write_bytes(b"\xff\xff")
    with pytest.raises(StorageError, match="damaged"):
        folder.load_state()
    assert path.read_bytes() == b"\xff\xff"


def test_what_a_dead_trainer_left_is_swept(tmp_path: Path) -> None:
    scratch = tmp_path / "state" / "scratch"
    scratch.mkdir(parents=True)
    (scratch / "half").write_bytes(b"x")
    one = DeviceFolder(tmp_path / "state")
    assert list(one.scratch.iterdir()) == []
    one.close()
