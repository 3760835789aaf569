"""The service that lets a trial's virtual machines in: its own authority, Mosquitto with mutual TLS, on loopback."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from deploy.flash.programs import run_program
from deploy.flash.virtual_machine import HOST_ADDRESS
from deploy.local import LOOPBACK, free_ports
from deploy.supervised import Supervised
from deploy.toml_text import toml_text
from protocol.enrolment import Token, token_text
from protocol.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["edgefold", "make_tokens", "no_token", "start_service", "wait_for"]

_COMMAND_S: Final = 900.0
_START_S: Final = 60.0


def start_service(folder: Path, *, task: Mapping[str, Any] | None = None) -> tuple[Supervised, Path]:
    """Return a running service in ``folder``, and its configuration; it may have a task.

    Raises:
        EngineError: it did not start.
    """
    names = ("--port", "--claim-port", "--claim-service-port", "--bundle-port")
    home = folder / "fleet"
    ports = [text for name, port in zip(names, free_ports(4), strict=True) for text in (name, str(port))]
    edgefold("serve", "init", "--folder", str(home), "--fleet", "trial", "--host", HOST_ADDRESS, *ports)
    config = home / "aggregator.toml"
    # On loopback alone: QEMU's own network carries the machine's connections there.
    text = config.read_text("utf-8").replace('host = "0.0.0.0"', f'host = "{LOOPBACK}"')
    config.write_text(text + toml_text({} if task is None else {"task": [dict(task)]}), "utf-8")
    service = Supervised("service", ("serve", "--config", str(config)), folder / "service.log")
    service.start()
    wait_for(service, "claims-open", deadline_s=_START_S)
    return service, config


def make_tokens(config: Path, count: int) -> tuple[str, ...]:
    """Return new tokens of the service."""
    words = ("devices", "token", "--config", str(config), "--count", str(count), "--expires", "4h", "--json")
    return tuple(map(str, json.loads(edgefold(*words))["tokens"]))


def no_token() -> str:
    """Return a token of a fleet that is nowhere, for a machine that needs none or must not get in."""
    return token_text(Token(fleet="trial", url="mqtts://nobody.example:1", welcome=bytes(32), secret=bytes(16)))


def wait_for(service: Supervised, name: str, *, deadline_s: float, **facts: object) -> None:
    """Wait until the service logs an event of this name and these facts.

    Raises:
        EngineError: it did not come in time.
    """
    until_s = time.monotonic() + deadline_s
    while time.monotonic() < until_s:
        for event in service.new_events():
            if event.name == name and all(event.facts.get(key) == value for key, value in facts.items()):
                return
        service.keep_running()
        time.sleep(0.2)
    raise EngineError(f"the service logged no {name} within {deadline_s:.0f} s")


def edgefold(*arguments: str) -> str:
    """Return what one of our own commands printed.

    Raises:
        EngineError: it failed.
    """
    return run_program((sys.executable, "-m", "edgefold", *arguments), deadline_s=_COMMAND_S).decode()
