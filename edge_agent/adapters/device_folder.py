"""The agent's folder: its state, the work it was given, its outbox and its residuals.

    state.cbor           the session state, replaced whole; names the files below that count
    work.cbor            the work of the current round
    work.id              a new name for it at each arrival: under it a training is counted once, however often it begins
    served-<task>.cbor   the newest adapter of a task, for predictions (``served_work``)
    receipt.cbor         the last receipt, for `edgefold agent status`
    outbox-<id>.cbor     a signed, sealed update that waits for its receipt
    residual-<id>.f32    what encoding that update rounded away
    kept-<id>.f32        what stays on the device with that update, where the task's strategy keeps something
    conduct.cbor         what the day has used and which rules hold; see ``conduct_record``
    checkpoint/          the trainer's: where an interrupted training stands; removed when the round is not trained on
    scratch/             the trainer's; worthless after a restart

Laws: a file is written before the state that names it; what no state names is removed at start; one agent at a time (a
lock that dies with the process). Knows no keys.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from typing import TYPE_CHECKING, Final

from edge_agent.adapters.served_work import keep_served, read_work
from edge_agent.core.session import SessionState
from host.durable import make_folder, open_plain, read_bytes, remove, sweep, write_bytes
from protocol import cbor
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.errors import ConfigError, MalformedMessageError, StorageError
from protocol.fields import FieldError, plain, structure
from protocol.jobs import KEPT_FILE, RESIDUAL_FILE
from protocol.messages import Receipt, Work, pack_body, unpack_body

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["DeviceFolder", "is_held", "kept_file", "read_receipt", "read_state"]

_MAX_STATE_BYTES: Final = 1 << 20
_WORK_ID_BYTES: Final = 16


class DeviceFolder:
    """Owner of everything that the agent writes."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, made if missing, and remove what an earlier process left half done.

        Raises:
            ConfigError: another agent uses it.
            StorageError: it cannot be made or read.
        """
        self.root = self._folder = make_folder(folder)
        self._lock = self._take_lock()
        self.scratch, self.checkpoint = folder / "scratch", folder / "checkpoint"
        self.clear_scratch()
        sweep(folder)

    def load_state(self) -> SessionState:
        """Return the saved state, a new one if there is none; remove files that it does not name.

        Raises:
            StorageError: the state file is damaged; it is left for a person to look at.
        """
        state = read_state(self._folder)
        self._remove_unnamed(state)
        return state

    def save_state(self, state: SessionState) -> None:
        """Replace the saved state, then remove what it no longer names."""
        write_bytes(self._folder / "state.cbor", cbor.dumps(plain(state)))
        self._remove_unnamed(state)

    def save_work(self, work: Work) -> None:
        """Keep the work of the current round."""
        write_bytes(self._folder / "work.id", os.urandom(_WORK_ID_BYTES))
        write_bytes(self._folder / "work.cbor", pack_body(work))
        keep_served(self._folder, work)

    def work_id(self) -> bytes:
        """Return the name of the current work, 16 bytes; a new one where an older version kept none.

        Raises:
            StorageError: it cannot be read.
        """
        path = self._folder / "work.id"
        try:
            found = read_bytes(path, max_bytes=_WORK_ID_BYTES)
        except FileNotFoundError:
            found = b""
        if len(found) != _WORK_ID_BYTES:
            write_bytes(path, found := os.urandom(_WORK_ID_BYTES))
        return found

    def load_work(self) -> Work:
        """Return the work of the current round.

        Raises:
            StorageError: it is missing or damaged.
        """
        return read_work(self._folder / "work.cbor")

    def save_receipt(self, receipt: Receipt) -> None:
        """Keep the last receipt for people to look at."""
        write_bytes(self._folder / "receipt.cbor", pack_body(receipt))

    def save_update(self, update_id: bytes, envelope: bytes) -> None:
        """Put a finished update and what the trainer left for later where the next state will name them."""
        residual = read_bytes(self.scratch / RESIDUAL_FILE, max_bytes=MAX_MESSAGE_BYTES)
        write_bytes(self.residual_path(update_id), residual)
        if (self.scratch / KEPT_FILE).is_file():
            write_bytes(self.kept_path(update_id), read_bytes(self.scratch / KEPT_FILE, max_bytes=MAX_MESSAGE_BYTES))
        write_bytes(self._outbox_path(update_id), envelope)

    def open_update(self, update_id: bytes) -> tuple[int, Callable[[int, int], bytes]]:
        """Return an update of the outbox: its length, and what reads so many bytes from a place on.

        Raises:
            StorageError: it is missing; raised by the reading too.
        """
        path = self._outbox_path(update_id)
        try:
            with open_plain(path) as file:
                n_bytes = os.fstat(file.fileno()).st_size
        except FileNotFoundError as error:
            raise StorageError(f"{path}: missing") from error

        def read(at: int, n: int) -> bytes:
            try:
                with open_plain(path) as file:
                    file.seek(at)
                    data = file.read(n)
            except OSError as error:
                raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
            if data is None or len(data) != n:
                raise StorageError(f"{path}: shorter than it was")
            return data

        return n_bytes, read

    def residual_path(self, update_id: bytes) -> Path:
        """Return where the residual of an update is."""
        return self._folder / f"residual-{update_id.hex()}.f32"

    def kept_path(self, update_id: bytes) -> Path:
        """Return where what the device keeps with an update is, if there is anything."""
        return kept_file(self._folder, update_id)

    def clear_scratch(self) -> None:
        """Give the next trainer an empty folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        make_folder(self.scratch)

    def close(self) -> None:
        """Give the folder back."""
        os.close(self._lock)

    def _outbox_path(self, update_id: bytes) -> Path:
        return self._folder / f"outbox-{update_id.hex()}.cbor"

    def _take_lock(self) -> int:
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise ConfigError(f"{self._folder}: another agent is using this folder") from error
        return fd

    def _remove_unnamed(self, state: SessionState) -> None:
        if state.phase not in ("joining", "training") and self.checkpoint.is_dir():
            shutil.rmtree(self.checkpoint, ignore_errors=True)
        named = {self.residual_path(update_id) for update_id in state.residual_of.values()}
        named |= {self.kept_path(update_id) for update_id in state.kept_of.values()}
        if state.update_id is not None:
            named |= {self._outbox_path(state.update_id), self.residual_path(state.update_id)}
            named.add(self.kept_path(state.update_id))
        for pattern in ("outbox-*.cbor", "residual-*.f32", "kept-*.f32"):
            for path in set(self._folder.glob(pattern)) - named:
                remove(path)


def kept_file(folder: Path, update_id: bytes) -> Path:
    """Return where what the device keeps with an update is, if there is anything."""
    return folder / f"kept-{update_id.hex()}.f32"


def read_state(folder: Path) -> SessionState:
    """Return the saved state, a new one if there is none; changes nothing.

    Raises:
        StorageError: the state file is damaged; it is left for a person to look at.
    """
    path = folder / "state.cbor"
    try:
        return structure(SessionState, cbor.loads(read_bytes(path, max_bytes=_MAX_STATE_BYTES), max_bytes=1 << 20))
    except FileNotFoundError:
        return SessionState()
    except (FieldError, MalformedMessageError) as error:
        raise StorageError(f"{path}: damaged: {error}; remove it to begin anew") from error


def read_receipt(folder: Path) -> tuple[Receipt, float] | None:
    """Return the last receipt and when it came, in Unix seconds; None if none did, or the file is damaged."""
    path = folder / "receipt.cbor"
    try:
        receipt, unix_s = unpack_body("receipt", read_bytes(path, max_bytes=MAX_MESSAGE_BYTES)), path.stat().st_mtime
    except (OSError, StorageError, MalformedMessageError):
        return None
    return (receipt, unix_s) if isinstance(receipt, Receipt) else None


def is_held(folder: Path) -> bool:
    """Return whether an agent is using ``folder``; changes nothing."""
    try:
        fd = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
