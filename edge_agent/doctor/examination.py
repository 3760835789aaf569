"""The order of the checks, and which of them another's failure makes pointless.

Laws: each hop is reported exactly once; a check that meets an error nobody thought of is a failed finding, and the
others still run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_agent.adapters.device_folder import is_held
from edge_agent.config import AgentConfig
from edge_agent.doctor import machine, wire
from edge_agent.doctor.download import check_download
from edge_agent.doctor.finding import Device, Finding
from host.config import load
from protocol.errors import ConfigError, EdgefoldError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["examine"]

# What is checked, the hops that must not have failed before, and how.
_HOPS: Final[tuple[tuple[str, tuple[str, ...], Callable[[Device], Finding]], ...]] = (
    ("folder", (), machine.check_folder),
    ("identity", (), machine.check_identity),
    ("clock", ("identity",), machine.check_clock),
    ("certificate", ("identity",), machine.check_certificate),
    ("bundles", (), machine.check_bundles),
    ("data", (), machine.check_data),
    ("privacy", (), machine.check_privacy),
    ("memory", ("bundles",), machine.check_memory),
    ("engine", ("bundles", "data"), machine.check_engine),
    ("dns", ("identity",), wire.check_dns),
    ("tcp", ("dns",), wire.check_tcp),
    ("tls", ("clock", "certificate", "tcp"), wire.check_tls),
    ("download", ("clock", "certificate"), check_download),
    ("mqtt", ("tls",), wire.check_mqtt),
    ("topics", ("mqtt",), wire.check_topics),
    ("announcement", ("topics",), wire.check_announcement),
)


def examine(config_path: Path) -> list[Finding]:
    """Return what is found at each hop, in the order of the checks; nothing on the device changes."""
    try:
        config = load(AgentConfig, config_path)
    except ConfigError as error:
        failed = Finding(name="config", state="failed", what=str(error), fix="see: edgefold agent run --help")
        return [failed, *(_skipped(name, "config") for name, _, _ in _HOPS)]
    here = config_path.parent
    device = Device(here=here, config=config, is_running=is_held(here / config.device.folder))
    findings = {"config": Finding(name="config", state="ok", what=str(config_path))}
    for name, needs, check in _HOPS:
        blocker = next((need for need in needs if _blocks(findings[need])), None)
        findings[name] = _tried(name, check, device) if blocker is None else _skipped(name, blocker)
    return list(findings.values())


def _blocks(finding: Finding) -> bool:
    # What does not apply (no TLS on this machine) blocks nothing; MQTT that was not tried has nothing to go on with.
    was_not_tried = finding.state == "skipped" and (finding.name == "mqtt" or finding.what.startswith(_AFTER))
    return finding.state == "failed" or was_not_tried


_AFTER: Final = "not tried, because of: "


def _skipped(name: str, blocker: str) -> Finding:
    return Finding(name=name, state="skipped", what=f"{_AFTER}{blocker}")


def _tried(name: str, check: Callable[[Device], Finding], device: Device) -> Finding:
    try:
        return check(device)
    except (EdgefoldError, OSError) as error:
        return Finding(name=name, state="failed", what=str(error), fix="as the line says")
