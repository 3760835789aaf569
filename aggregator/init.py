"""``edgefold serve init``: a new fleet's folder, with keys, certificates and a settings file to fill in.

Writes aggregator.toml last: a folder without it is not a fleet's, and an interrupted ``init`` is begun anew in an empty
folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from aggregator.adapters.authority import make_authority
from aggregator.adapters.broker import ALL_INTERFACES, LOOPBACK
from aggregator.service_key import service_key
from host.durable import make_folder, write_bytes
from protocol.errors import ConfigError
from protocol.fields import FieldError, Length, Name, Range, structure

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FleetPlan", "check_plan", "init_fleet"]

_TEMPLATE = """\
# The service of fleet {fleet}; docs/aggregator.md explains every key, docs/enrolment.md the operator's day.
[service]
fleet = "{fleet}"
folder = "state"               # everything durable: back this up, and service.key and authority/ with it
key = "service.key"            # devices believe this key: losing it means enrolling all of them again
# post_quantum_signatures = true    # sign everything by ML-DSA-65 too; set it before the first device enrols

[authority]
folder = "authority"           # move authority/root.key to a place that no network reaches
host = "{host}"          # how devices reach the broker; it is in the broker's certificate

[broker]
host = "{listen}"           # the address to listen on
port = {port}                    # devices with a certificate
claim_port = {claim_port}              # devices that enrol
claim_service_port = {claim_service_port}      # the service's own way to their claims

[bundles]
host = "{listen}"           # devices with a certificate fetch the tasks' bundles here, over HTTPS
port = {bundle_port}

[devices]
approve = "token"              # "manual": each also waits for `edgefold devices approve`
certificate_days = 7.0         # renewed by devices when half of it is over

# [[task]]
# id = "sentiment"
# bundle = "bundle"            # what `edgefold export` wrote
# rounds = 6
# cohort = 4
# min_cohort = 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What a new fleet is called and where its broker listens."""

    fleet: Name
    host: Annotated[str, Length(1, 255)]
    port: Annotated[int, Range(1, 65535)] = 8883  # registered for MQTT with TLS
    claim_port: Annotated[int, Range(1, 65535)] = 8884
    claim_service_port: Annotated[int, Range(1, 65535)] = 8885
    bundle_port: Annotated[int, Range(1, 65535)] = 8886

    def __post_init__(self) -> None:
        """Refuse what would break the settings file or two listeners on one port."""
        if not all(one.isalnum() or one in ".-:" for one in self.host) or not self.host.isascii():
            raise FieldError("host: expected a name or an address")
        if len({self.port, self.claim_port, self.claim_service_port, self.bundle_port}) < 4:
            raise FieldError("port, claim_port, claim_service_port, bundle_port: expected four different ports")


def check_plan(values: dict[str, object]) -> FleetPlan:
    """Return the plan in ``values``.

    Raises:
        ConfigError: a value is out of its bounds (the user's fault).
    """
    try:
        return structure(FleetPlan, values)
    except FieldError as error:
        raise ConfigError(str(error)) from error


def init_fleet(folder: Path, plan: FleetPlan) -> Path:
    """Make a fleet in ``folder`` and return its settings file.

    Raises:
        ConfigError: there is a fleet already (the user's fault).
        StorageError: the folder cannot be written.
    """
    settings = folder / "aggregator.toml"
    if settings.exists():
        raise ConfigError(f"{settings}: there is a fleet already")
    make_folder(folder)
    make_authority(folder / "authority", fleet=plan.fleet, host=plan.host, now=datetime.now(UTC))
    service_key(folder / "service.key", with_second=False)
    text = _TEMPLATE.format(
        fleet=plan.fleet,
        host=plan.host,
        listen=LOOPBACK if plan.host in (LOOPBACK, "localhost") else ALL_INTERFACES,
        port=plan.port,
        claim_port=plan.claim_port,
        claim_service_port=plan.claim_service_port,
        bundle_port=plan.bundle_port,
    )
    write_bytes(settings, text.encode())
    return settings
