"""Installs the agent onto a running machine by ssh: Debian and Ubuntu on arm64 and x86-64, and what is like them.

Workflow: find out what it is -> a release for it, from a wheelhouse -> unpack beside what is there -> switch ->
enrol if it has not -> start -> ask the doctor -> switch back if it says that the installation is at fault. Doing it
again with the same release changes nothing but a restart.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from deploy.flash import remote
from deploy.flash.programs import require_programs
from deploy.flash.settings import agent_settings
from protocol.errors import ConfigError, EngineError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.flash.remote import Place, Probe
    from deploy.flash.settings import DeviceSetup
    from deploy.flash.wheelhouse import Release

__all__ = ["Address", "Installed", "Remote", "install", "parse_address"]

_DEADLINE_S: Final = 600.0
_DOCTOR_TRIES, _DOCTOR_WAIT_S = 3, 4.0
_SSH_FAILED: Final = 255  # ssh(1): its own code; others are the command's
# What an empty device lacks, or what only the service can give: no fault of an installation.
_NOT_OURS: Final = frozenset({"announcement", "bundles", "data", "download", "memory"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """ssh://USER@HOST:PORT."""

    host: str
    user: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What came of it."""

    probe: Probe
    place: Place
    release: str
    findings: tuple[tuple[str, str, str], ...]  # hop, state, what


def parse_address(text: str) -> Address:
    """Return the address.

    Raises:
        ConfigError: not ssh://[USER@]HOST[:PORT] (the user's fault).
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{text}: expected ssh://USER@HOST[:PORT]") from error
    names = [one for one in (parts.hostname, parts.username) if one is not None]
    is_plain = all(one and not one.startswith("-") and not any(c.isspace() for c in one) for one in names)
    if parts.scheme != "ssh" or not parts.hostname or not is_plain or parts.path.strip("/") or parts.password:
        raise ConfigError(f"{text}: expected ssh://USER@HOST[:PORT]; keys, not passwords")
    return Address(host=parts.hostname, user=parts.username, port=port)


class Remote:
    """A machine reached by the ordinary ssh, with the person's own keys and known hosts; asks for nothing."""

    def __init__(self, address: Address, *, options: tuple[str, ...] = ()) -> None:
        """Reach ``address``; ``options`` are more of ssh's own."""
        port = () if address.port is None else ("-p", str(address.port))
        name = address.host if address.user is None else f"{address.user}@{address.host}"
        self._argv = (require_programs(["ssh"])["ssh"], "-o", "BatchMode=yes", *options, *port, "--", name)

    def run(self, command: str, *, told: bytes = b"", is_checked: bool = True) -> str:
        """Return what ``command`` printed, after giving it ``told``.

        Raises:
            TransportError: the machine cannot be reached.
            EngineError: the command failed there.
        """
        try:
            done = subprocess.run(
                [*self._argv, command], input=told, capture_output=True, check=False, timeout=_DEADLINE_S
            )
        except subprocess.TimeoutExpired as error:
            raise TransportError(f"{self._argv[-1]}: no end within {_DEADLINE_S:.0f} s") from error
        said = done.stderr.decode("utf-8", "replace").strip()[-500:]
        if done.returncode == _SSH_FAILED:
            raise TransportError(f"{self._argv[-1]}: {said or 'cannot be reached'}")
        if is_checked and done.returncode != 0:
            raise EngineError(f"{self._argv[-1]}: {said or 'a command failed there'}")
        return done.stdout.decode("utf-8", "replace")


def install(
    machine: Remote,
    setup: DeviceSetup,
    *,
    release_for: Callable[[Probe], Release],
    folder: str | None = None,
    watch: Callable[[str], None] = lambda _: None,
) -> Installed:
    """Install, enrol, start and examine; switch back if the doctor blames the installation.

    Raises:
        ConfigError: the machine cannot have an agent.
        TransportError: it cannot be reached.
        EngineError: something failed there; what was there before runs again.
    """
    probe = remote.parse_probe(machine.run("sh -s", told=remote.PROBE.encode()))
    place = remote.place_of(probe, folder)
    watch(f"{probe.system}, {probe.platform}, Python {probe.python}, as a {place.kind} service in {place.root}")
    release = release_for(probe)
    if release.name not in machine.run(f"ls {place.root}/releases 2>/dev/null || true").split():
        watch("copy the agent")
        machine.run(remote.unpack_script(place, release.name), told=release.path.read_bytes())
    watch("switch")
    machine.run(remote.stop_script(place))
    machine.run(remote.activate_script(place, release.name, agent_settings(setup)))
    try:
        _enrol(machine, place, setup, watch)
        watch("start")
        machine.run(remote.start_script(place))
        findings = _examine(machine, place, watch)
    except EngineError as error:
        before = _roll_back(machine, place)
        raise EngineError(f"{error}; {before}") from error
    return Installed(probe=probe, place=place, release=release.name, findings=findings)


def _enrol(machine: Remote, place: Place, setup: DeviceSetup, watch: Callable[[str], None]) -> None:
    there = machine.run(f"{place.sudo}test -e {place.state}/identity/enrolment.toml && echo yes || true").strip()
    if there == "yes":
        return
    watch("enrol")
    token = f"{place.state}/token"
    owner = f" && chown edgefold:edgefold {token}" if place.kind == "system" else ""
    keep = f"umask 077; cat > {token}{owner}"
    machine.run(f"{place.sudo}sh -c '{keep}'", told=f"{setup.token}\n".encode())
    words = ("agent", "enrol", "--config", f"{place.state}/agent.toml", "--token-file", token, "--erase")
    machine.run(remote.agent_command(place, *words))


def _examine(machine: Remote, place: Place, watch: Callable[[str], None]) -> tuple[tuple[str, str, str], ...]:
    watch("ask the doctor")
    words = ("agent", "doctor", "--config", f"{place.state}/agent.toml", "--json")
    blamed: list[str] = []
    for _ in range(_DOCTOR_TRIES):
        time.sleep(_DOCTOR_WAIT_S)  # the agent needs a moment to take its folder
        said = machine.run(remote.agent_command(place, *words), is_checked=False)
        try:
            findings = tuple((str(one["name"]), str(one["state"]), str(one["what"])) for one in json.loads(said))
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError("the doctor did not answer there") from error
        blamed = [f"{name}: {what}" for name, state, what in findings if state == "failed" and name not in _NOT_OURS]
        if not blamed:
            return findings
    raise EngineError(f"the doctor says: {'; '.join(blamed)}")


def _roll_back(machine: Remote, place: Place) -> str:
    machine.run(remote.stop_script(place))
    before = machine.run(remote.roll_back_script(place)).strip()
    if before == "none":
        return "nothing was there before, so nothing runs"
    machine.run(remote.start_script(place))
    return f"{before.rpartition('/')[2]} runs again"
