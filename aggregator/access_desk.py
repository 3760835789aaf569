"""What ``edgefold serve token`` and ``tokens`` do: give out, list and take back. Works beside a running service."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from aggregator.adapters.sql_access import SqlAccess
from aggregator.config import load_config
from aggregator.core.access import ROLES, AccessRecord, digest_of
from aggregator.folders import Folders, upgrade
from protocol.errors import ConfigError
from protocol.fields import FieldError, Name, structure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["AccessDesk", "opened"]

_PREFIX = "efh_"  # lets scanners of repositories and logs recognise one
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    name: Name


class AccessDesk:
    """Answers an operator."""

    def __init__(self, access: SqlAccess) -> None:
        """Work on ``access``."""
        self._access = access

    def give(self, role: str, *, name: str | None, expires_s: float, as_json: bool) -> None:
        """Make a token and print it; only its hash is kept.

        Raises:
            ConfigError: the name is no name, or taken (the user's fault).
        """
        taken = {one.name for one in self._access.tokens()}
        chosen = name or next(f"{role}-{n}" for n in range(1, len(taken) + 2) if f"{role}-{n}" not in taken)
        try:
            structure(_Named, {"name": chosen})
        except FieldError as error:
            raise ConfigError(f"--{error}") from error
        secret, now = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES), time.time()
        (known_role,) = [one for one in ROLES if one == role]
        self._access.add(
            AccessRecord(
                name=chosen,
                digest=digest_of(secret),
                role=known_role,
                created_unix_s=now,
                expires_unix_s=now + expires_s,
            )
        )
        if as_json:
            click.echo(json.dumps({"name": chosen, "role": role, "token": secret, "expires": _when(now + expires_s)}))
        else:
            click.echo(secret)

    def print_tokens(self, *, as_json: bool) -> None:
        """Print one line a token, never the secret."""
        tokens = self._access.tokens()
        if as_json:
            facts = [{"name": one.name, "role": one.role, "expires": _when(one.expires_unix_s)} for one in tokens]
            return click.echo(json.dumps({"tokens": facts}, indent=2))
        for one in tokens:
            click.echo(f"{one.name:<32}{one.role:<12}{_when(one.expires_unix_s)}")
        return None if tokens else click.echo("no token has been given out; edgefold serve token makes one")

    def revoke(self, name: str) -> None:
        """Take a token back.

        Raises:
            ConfigError: there is none of that name (the user's fault).
        """
        self._access.revoke(name)


@contextmanager
def opened(config_path: Path) -> Iterator[AccessDesk]:
    """Open the tokens of the service in ``config_path``; its database is made if it is missing.

    Raises:
        ConfigError, StorageError: see the parts.
    """
    config = load_config(config_path)
    folders = Folders.of(config)
    upgrade(folders.database)
    access = SqlAccess(folders.database)
    try:
        yield AccessDesk(access)
    finally:
        access.close()


def _when(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
