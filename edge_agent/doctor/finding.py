"""What a check says, and what later checks build on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.adapters.identity import Enrolment
    from edge_agent.config import AgentConfig
    from host.bundle_folder import Bundle
    from host.link import BrokerAddress
    from host.tls import TlsFiles
    from protocol.signing import VerifyKey

__all__ = ["Device", "Finding", "State"]

State: TypeAlias = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One hop: how it stands, what was seen, and what to do about it."""

    name: str
    state: State
    what: str
    fix: str = ""


@dataclass(slots=True, kw_only=True)
class Device:
    """The device under examination; each check adds what those after it need."""

    here: Path  # the folder of agent.toml
    config: AgentConfig
    is_running: bool  # an agent holds the lock
    enrolment: Enrolment | None = None
    address: BrokerAddress | None = None
    service_key: VerifyKey | None = None
    tls: TlsFiles | None = None
    bundles: list[Bundle] = field(default_factory=list)
    refusal: str | None = None  # why the broker refused our subscriptions
    announced: list[tuple[str, bytes]] = field(default_factory=list)  # topic, envelope

    @property
    def bundle_url(self) -> str | None:
        """Where bundles are fetched, None if they cannot be."""
        told = None if self.enrolment is None else self.enrolment.bundle_url
        return self.config.bundles.url or told
