"""``edgefold restore``: a service again from a backup, in an empty place, that no device takes for a rolled-back one.

Laws: nothing is ever replaced; the backup is checked as a whole before anything is written, and the database, which
makes the rest count, comes last and at once, so that an interrupted restore can be repeated; a budget is never un-spent
(``restored_privacy``). Why the numbers of rounds and versions jump: docs/adr/0019.
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from aggregator.adapters.backup_archive import opened_backup
from aggregator.adapters.spent_file import parse_spent
from aggregator.adapters.sql_restore import restore_database
from aggregator.blob_place import open_blobs
from aggregator.core.privacy.ledger import merged
from aggregator.core.strategies import STRATEGIES
from aggregator.created_tasks import with_created
from aggregator.folders import Folders
from aggregator.restored_privacy import settle
from aggregator.sole_service import hold_folder
from host.durable import make_folder, read_bytes, write_bytes
from host.keys import second_key_file
from protocol.errors import ConfigError, TrustError

if TYPE_CHECKING:
    from aggregator.adapters.backup_archive import OpenedBackup
    from aggregator.adapters.sql_restore import Lifted
    from aggregator.blob_place import BlobPlace
    from aggregator.config import Config, TaskSettings
    from aggregator.core.privacy.ledger import LedgerEntry
    from aggregator.core.records import CreatedTask
    from aggregator.restored_privacy import PrivacyWord

__all__ = ["Restored", "restore"]

_MAX_FILE_BYTES: Final = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What came of a restore; ``warnings`` are for the operator."""

    created_unix_s: float
    n_blobs: int
    tasks: tuple[Lifted, ...]
    warnings: tuple[str, ...]


def restore(config: Config, path: Path, *, word: PrivacyWord) -> Restored:
    """Restore the backup in ``path`` where ``config`` says.

    Raises:
        ConfigError: there is something already, keys are missing, or the operator has to say more (the user's fault).
        TrustError: it is no whole backup of ours.
        StorageError: something cannot be written; the same restore may be tried again.
    """
    now = time.time()
    with ExitStack() as stack:
        backup = stack.enter_context(opened_backup(path))
        if backup.manifest.fleet != config.service.fleet:
            raise ConfigError(f"{path}: a backup of fleet {backup.manifest.fleet}, not of {config.service.fleet}")
        folders = Folders.of(config)
        make_folder(folders.root)
        hold_folder(folders.root, stack)
        rules = _Rules(config, folders, backup, word, unix_s=now)
        _refuse_owned(folders)
        _write_keys(config, folders, backup)
        blobs = stack.enter_context(closing(open_blobs(folders.blobs)))
        n_blobs = _write_blobs(blobs, backup)
        blobs.disown()
        revoked = _revoked_serials(config)
        tasks = restore_database(folders.database, backup, rules=rules, revoked=revoked, unix_s=now)
        return Restored(
            created_unix_s=backup.manifest.created_unix_s,
            n_blobs=n_blobs,
            tasks=tasks,
            warnings=rules.warnings([one.task for one in tasks]),
        )


class _Rules:
    """Implements ``sql_restore.RestoreRules`` from the configuration and the tasks in the backup."""

    def __init__(
        self, config: Config, folders: Folders, backup: OpenedBackup, word: PrivacyWord, *, unix_s: float
    ) -> None:
        self._config, self._folders, self._backup = config, folders, backup
        self._word, self._unix_s = word, unix_s
        self._settings: dict[str, TaskSettings] = {}

    def has_gate(self, task: str, created: tuple[CreatedTask, ...]) -> bool:
        self._settings = {one.id: one for one in with_created(self._config.task, created)}
        settings = self._settings.get(task)
        return settings is not None and settings.gate is not None

    def must_stop(self, task: str, spent: tuple[LedgerEntry, ...], created: tuple[CreatedTask, ...]) -> bool:
        settings = {one.id: one for one in with_created(self._config.task, created)}.get(task)
        dp = None if settings is None else settings.privacy.dp
        member = f"privacy/{task}.spent"
        if member in self._backup.names(member):
            spent = merged(spent, parse_spent(self._backup.read(member), of=member))
        if dp is None and not spent:
            return False
        path = self._folders.spent(task) if dp is None or dp.spent_file is None else Path(dp.spent_file)
        return settle(task, path, spent, self._word, unix_s=self._unix_s)

    def warnings(self, tasks: list[str]) -> tuple[str, ...]:
        controlled = [
            f"task {task}: devices keep control variates of versions that are lost; if it learns badly, begin it anew"
            for task in tasks
            if task in self._settings and STRATEGIES[self._settings[task].strategy].needs.plain_sgd
        ]
        unknown = [f"task {task}: the configuration does not have it" for task in tasks if task not in self._settings]
        return (*unknown, *controlled)


def _key_path(config: Config, folders: Folders, member: str) -> Path | None:
    kind, _, name = member.removeprefix("keys/").rpartition("/")
    if kind == "task":
        return folders.task_key("any").with_name(name)
    if kind == "authority":
        return None if config.authority is None else Path(config.authority.folder) / name
    key = Path(config.service.key)
    return key if name == "service.key" else second_key_file(key)


def _write_keys(config: Config, folders: Folders, backup: OpenedBackup) -> None:
    members = {member: _key_path(config, folders, member) for member in backup.names("keys/")}
    key = Path(config.service.key)
    if "keys/service.key" not in members and not key.exists():
        raise ConfigError(f"{key}: not there, nor in the backup (made without --with-keys): devices believe no other")
    has_authority = config.authority is None or any(Path(config.authority.folder).glob("issuing*.key"))
    brings_authority = any(re.fullmatch(r"keys/authority/issuing(-[0-9a-f]+)?\.key", member) for member in members)
    if config.authority is not None and not has_authority and not brings_authority:
        raise ConfigError(f"{config.authority.folder}: no authority there, nor in the backup; put it back first")
    for member, path in members.items():
        if path is None:
            continue
        if not path.exists():
            make_folder(path.parent)
            write_bytes(path, backup.read(member))
        elif member == "keys/service.key" and read_bytes(path, max_bytes=_MAX_FILE_BYTES) != backup.read(member):
            raise ConfigError(f"{path}: another key than the backup's; devices believe one of the two")


def _refuse_owned(folders: Folders) -> None:
    """Refuse a place of blobs that may be of another service which lives: the next start would remove that one's."""
    if folders.blobs_elsewhere is None:
        return  # under the lock that we hold
    with closing(open_blobs(folders.blobs_elsewhere)) as blobs:
        if blobs.owner() is not None:
            raise ConfigError(
                f"{blobs}: these blobs belong to a database. If that is lost for good, remove {blobs}/OWNER and "
                "restore again; else say another service.blobs"
            )


def _write_blobs(blobs: BlobPlace, backup: OpenedBackup) -> int:
    names = backup.names("blobs/")
    for name in names:
        if f"blobs/{blobs.put(backup.read(name))}" != name:
            raise TrustError(f"{name}: not what its name says")
    return len(names)


def _revoked_serials(config: Config) -> list[str]:
    """Return the certificates in the revocation list that is still there: revocations after the backup are in it."""
    path = None if config.authority is None else Path(config.authority.folder) / "crl.pem"
    if path is None or not path.exists():
        return []
    try:
        crl = x509.load_pem_x509_crl(read_bytes(path, max_bytes=_MAX_FILE_BYTES))
    except ValueError as error:
        raise ConfigError(f"{path}: no revocation list: {error}") from error
    return [f"{one.serial_number:x}" for one in crl]
