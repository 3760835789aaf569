"""``edgefold backup``: one file from which ``edgefold restore`` makes the service again, taken while it runs.

Laws: the database is read in one snapshot; a blob that the running service retired while it was being copied makes the
whole backup begin again on a newer snapshot; keys only if asked for, and never the authority's root key; the file has
mode 0600. Memory: one blob.
"""

from __future__ import annotations

import logging
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aggregator.adapters import migrations
from aggregator.adapters.backup_archive import BackupManifest, writing_backup
from aggregator.adapters.spent_file import MAX_SPENT_BYTES
from aggregator.adapters.sql_dump import SqlDump
from aggregator.adapters.sql_lifecycle import SqlLifecycle
from aggregator.away import AwayError
from aggregator.blob_place import open_blobs
from aggregator.created_tasks import with_created
from aggregator.folders import Folders
from host.durable import read_bytes
from host.logs import event
from protocol.errors import ConfigError, StorageError
from protocol.layout import MAX_PARAMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.adapters.backup_archive import WritingBackup
    from aggregator.adapters.sql_dump import Snapshot
    from aggregator.blob_place import BlobPlace
    from aggregator.config import Config

__all__ = ["BackedUp", "back_up"]

_TRIES: Final = 5
_MAX_KEY_BYTES: Final = 1 << 24  # a revocation list of 100,000 devices is 4 MB
_ROOT_KEY: Final = "root.key"  # its place is where no network reaches


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """What is in a backup."""

    n_tables: int
    n_blobs: int
    n_bytes: int
    has_keys: bool


class _BlobGoneError(Exception):
    """The running service retired a blob after the snapshot."""


def back_up(config: Config, out: Path, *, with_keys: bool) -> BackedUp:
    """Write a backup of the service that ``config`` describes to the new file ``out``.

    Raises:
        ConfigError: there is nothing to back up, or ``out`` is there already (the user's fault).
        StorageError: something cannot be read or written; ``out`` is not there then.
    """
    folders = Folders.of(config)
    if not folders.has_database:
        raise ConfigError(f"{folders.root}: no service has run here yet, there is nothing to back up")
    for n_try in range(1, _TRIES + 1):
        try:
            return _once(config, folders, out, with_keys=with_keys)
        except _BlobGoneError as error:
            event("backup-begins-again", level=logging.WARNING, n_tries=n_try, why=str(error))
    raise StorageError(f"{out}: the service retired versions {_TRIES} times while they were copied; try again later")


def _key_files(config: Config, folders: Folders) -> Iterator[tuple[str, Path]]:
    """Return the members of a backup that are keys, and where they are."""
    key = Path(config.service.key)
    for member, path in (("keys/service.key", key), ("keys/service.key.mldsa65", key.with_name(f"{key.name}.mldsa65"))):
        yield member, path
    for path in sorted(folders.task_key("any").parent.glob("*.taskkey*")):
        yield f"keys/task/{path.name}", path
    if config.authority is not None:
        for path in sorted(Path(config.authority.folder).glob("*.[kp]e[ym]")):
            is_lasting = path.stem.isalpha() or path.stem.startswith(("issuing-", "former-"))
            if path.name != _ROOT_KEY and is_lasting:
                yield f"keys/authority/{path.name}", path


def _once(config: Config, folders: Folders, out: Path, *, with_keys: bool) -> BackedUp:
    created_unix_s = time.time()
    with (
        closing(SqlDump(folders.database)) as dump,
        dump.snapshot() as snapshot,
        writing_backup(out) as archive,
    ):
        for name in snapshot.table_names:
            _add_table(archive, snapshot, name, with_secrets=with_keys)
        for task, path in sorted(_spent_files(config, folders).items()):
            if path.exists():
                archive.add_bytes(f"privacy/{task}.spent", read_bytes(path, max_bytes=MAX_SPENT_BYTES))
        if with_keys:
            _add_keys(archive, config, folders)
        blobs = snapshot.blobs(keep_folded=config.service.keep_folded_updates)
        with closing(open_blobs(folders.blobs)) as place:
            _add_blobs(archive, place, dump, blobs, keep_folded=config.service.keep_folded_updates)
        manifest = archive.end(
            BackupManifest(
                fleet=config.service.fleet,
                revision=migrations.HEAD,
                created_unix_s=created_unix_s,
                has_keys=with_keys,
            )
        )
    n_bytes = sum(one.bytes for one in manifest.members.values())
    return BackedUp(n_tables=len(snapshot.table_names), n_blobs=len(blobs), n_bytes=n_bytes, has_keys=with_keys)


def _spent_files(config: Config, folders: Folders) -> dict[str, Path]:
    """Return where each task's second record of spent privacy is, or would be."""
    found = {path.stem: path for path in folders.spent("any").parent.glob("*.spent")}
    with closing(SqlLifecycle(folders.database)) as lifecycle:
        tasks = with_created(config.task, lifecycle.created())
    for task in tasks:
        if task.privacy.dp is not None:
            found[task.id] = Path(task.privacy.dp.spent_file or folders.spent(task.id))
    return found


def _add_table(archive: WritingBackup, snapshot: Snapshot, name: str, *, with_secrets: bool) -> None:
    with tempfile.TemporaryFile(prefix="edgefold-") as file:  # a tar member's length comes before it
        for line in snapshot.lines(name, with_secrets=with_secrets):
            file.write(line)
        n_bytes = file.tell()
        file.seek(0)
        archive.add(f"tables/{name}.jsonl", file, n_bytes=n_bytes)


def _add_keys(archive: WritingBackup, config: Config, folders: Folders) -> None:
    for name, path in _key_files(config, folders):
        try:
            archive.add_bytes(name, read_bytes(path, max_bytes=_MAX_KEY_BYTES))
        except FileNotFoundError:
            continue  # a task's key that was destroyed just now, or a service that never ran


def _add_blobs(archive: WritingBackup, blobs: BlobPlace, dump: SqlDump, names: list[str], *, keep_folded: bool) -> None:
    for name in names:
        try:
            data = blobs.get(name, max_bytes=4 * MAX_PARAMS)
        except AwayError:
            raise
        except StorageError as error:
            with dump.snapshot() as newer:
                if name not in newer.blobs(keep_folded=keep_folded):
                    raise _BlobGoneError(name) from error
            raise
        archive.add_bytes(f"blobs/{name}", data)
