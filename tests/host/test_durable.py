from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from host import arrays, durable
from protocol.errors import StorageError

OLD, NEW = b"old" * 1000, b"new" * 5000

# Runs in a process of its own and dies by SIGKILL at the n-th step of write_bytes.
KILLED_WRITER = """
import os, pathlib, signal, sys
from host import durable

step, path = int(sys.argv[1]), pathlib.Path(sys.argv[2])
seen = 0

def deadly(call):
    def before(*args, **kwargs):
        global seen
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
        return call(*args, **kwargs)
    return before

durable.tempfile.mkstemp = deadly(durable.tempfile.mkstemp)
os.fchmod, os.fsync = deadly(os.fchmod), deadly(os.fsync)
pathlib.Path.replace = deadly(pathlib.Path.replace)
durable.write_bytes(path, b"new" * 5000)
print(seen)
"""


def write_and_die(step: int, path: Path) -> subprocess.CompletedProcess[str]:
    """Write ``NEW`` to ``path`` in a process that ends itself before the given step."""
    command = [sys.executable, "-c", KILLED_WRITER, str(step), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_a_write_killed_between_any_two_steps_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    n_steps = int(write_and_die(-1, path).stdout)
    assert n_steps == 5  # make, mode, sync the file, rename, sync the folder
    outcomes = []
    for step in range(n_steps):
        path.write_bytes(OLD)
        assert write_and_die(step, path).returncode == -signal.SIGKILL
        outcomes.append(path.read_bytes())
        durable.sweep(tmp_path)
        assert os.listdir(tmp_path) == ["state"]  # noqa: PTH208 - names, not paths
    assert outcomes == [OLD] * 4 + [NEW]


def test_a_written_file_is_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for data in (b"", OLD, NEW):
        durable.write_bytes(path, data)
        assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o600
    durable.write_bytes(path, b"", mode=0o644)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_a_failing_disk_is_a_storage_error_and_the_old_file_stays(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    durable.write_bytes(path, OLD)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="No space left"):
        durable.write_bytes(path, NEW)
    assert path.read_bytes() == OLD
    assert [one.name for one in tmp_path.iterdir()] == ["state"]


def test_a_full_disk_is_a_storage_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = (
        "import pathlib, resource, signal, sys\n"
        "from host import durable\n"
        "from protocol.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    durable.write_bytes(pathlib.Path(sys.argv[1]), bytes(5000))\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert "state: cannot be written: File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        durable.write_bytes(tmp_path / "none" / "state", NEW)


def test_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"12345")
    assert durable.read_bytes(path, max_bytes=5) == b"12345"
    with pytest.raises(StorageError, match="longer than 4 bytes"):
        durable.read_bytes(path, max_bytes=4)


def test_only_plain_files_are_read_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(StorageError, match="not a plain file"):
            durable.read_bytes(path, max_bytes=5)
    with pytest.raises(FileNotFoundError):
        durable.read_bytes(tmp_path / "none", max_bytes=5)


def test_links_are_followed_only_where_they_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert durable.read_bytes(tmp_path / "link", max_bytes=5) == b"x"
    with pytest.raises(StorageError, match="link"):
        durable.read_bytes(tmp_path / "link", max_bytes=5, follow_links=False)


def test_folders_are_made_for_their_owner_alone_and_removing_is_idempotent(tmp_path: Path) -> None:
    folder = durable.make_folder(tmp_path / "a" / "b")
    assert durable.make_folder(folder) == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    durable.write_bytes(folder / "x", b"")
    for _ in range(2):
        durable.remove(folder / "x")
    assert list(folder.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        durable.make_folder(tmp_path / "file")
    durable.sweep(tmp_path / "none")


def test_a_vector_reads_back_and_its_length_and_values_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "theta.f32"
    vector = np.array([1.5, -2.0, 3e-30], np.float32)
    arrays.save_vector(path, vector)
    np.testing.assert_array_equal(arrays.load_vector(path, n_values=3), vector)
    for n_values in (2, 4):
        with pytest.raises(StorageError):
            arrays.load_vector(path, n_values=n_values)
    arrays.save_vector(path, np.array([np.nan], np.float32))
    with pytest.raises(StorageError, match="NaN"):
        arrays.load_vector(path, n_values=1)


def test_arrays_read_back_and_anything_else_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "batches.npz"
    np.savez_compressed(path, **{"0/input_ids": np.arange(6).reshape(2, 3), "zeros": np.zeros(100_000)})
    np.testing.assert_array_equal(arrays.load_npz(path)["0/input_ids"], [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(StorageError, match="at most 1000 are taken"):
        arrays.load_npz(path, max_bytes=1000)
    np.savez(path, objects=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(StorageError):
        arrays.load_npz(path)
    for data in (b"", b"PK\x03\x04", b"\x93NUMPY", bytes(100)):
        path.write_bytes(data)
        with pytest.raises(StorageError):
            arrays.load_npz(path)
    with pytest.raises(StorageError):
        arrays.load_npz(tmp_path / "none.npz")
