"""The fleet's broker and, where there is an authority, the claim broker: started here, or somebody else's by URL.

Laws: without an authority a broker of ours is for this machine alone, and only if the settings say so; with one,
nothing of ours listens without TLS.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aggregator.adapters.authority import Authority
from aggregator.adapters.broker import ALL_INTERFACES, LOOPBACK, BrokerConfig, BrokerProcess, choose_broker
from aggregator.adapters.broker_supervisor import BrokerSupervisor
from aggregator.adapters.mosquitto_files import BrokerTls
from aggregator.ingest_settings import client_name
from host.durable import make_folder
from host.link import BrokerAddress, parse_broker_url
from host.tls import client_context
from protocol.errors import ConfigError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from aggregator.config import Config

__all__ = ["Brokers", "make_brokers", "open_authority"]

_MIN_QUEUED_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Brokers:
    """Where the brokers are, how the service connects, and what keeps those of ours alive."""

    fleet: BrokerAddress
    claims: BrokerAddress | None = None
    tls: Callable[[], ssl.SSLContext] | None = None
    authority: Authority | None = None
    supervisors: tuple[BrokerSupervisor, ...] = ()


def open_authority(config: Config) -> Authority | None:
    """Return the fleet's authority, its own certificates renewed if need be; None if there is none.

    Raises:
        ConfigError: a file of it is missing (the user's fault).
    """
    if config.authority is None:
        return None
    authority = Authority(Path(config.authority.folder))
    authority.renew_own(config.authority.host, now=datetime.now(UTC), workers=config.ingest.names)
    return authority


def make_brokers(config: Config, folder: Path, *, max_packet_bytes: int) -> Brokers:
    """Start the brokers that the settings describe, or return where they are.

    Raises:
        ConfigError: TLS without an authority, or neither TLS nor ``insecure_loopback`` (the user's fault).
        ConfigError, TransportError: see ``BrokerSupervisor``.
    """
    authority = open_authority(config)
    if config.broker.url is not None:
        return _elsewhere(config, config.broker.url, authority)
    if authority is None:
        return _insecure(config, folder, max_packet_bytes)
    return _ours(config, folder, authority, max_packet_bytes)


def _elsewhere(config: Config, url: str, authority: Authority | None) -> Brokers:
    fleet = parse_broker_url(url)
    if fleet.is_tls != (authority is not None):
        raise ConfigError(f"broker.url {url!r}: mqtts:// and [authority] go together; edgefold serve init makes one")
    if authority is None:
        return Brokers(fleet=fleet)
    claims = None if config.broker.claim_url is None else parse_broker_url(config.broker.claim_url)
    if claims is None or not claims.is_tls:
        raise ConfigError("broker.claim_url: expected mqtts://HOST:PORT of the claim broker's port for the service")
    return Brokers(fleet=fleet, claims=claims, tls=_service_tls(authority), authority=authority)


def _insecure(config: Config, folder: Path, max_packet_bytes: int) -> Brokers:
    if not config.broker.insecure_loopback:
        raise ConfigError(
            "broker: a broker without certificates needs broker.insecure_loopback = true, or --insecure-loopback, and "
            "serves this machine only; "
            "for a real fleet: edgefold serve init"
        )
    supervisor = _start(config, folder / "broker", None, port=config.broker.port, max_packet_bytes=max_packet_bytes)
    return Brokers(fleet=BrokerAddress(host=config.broker.host, port=supervisor.port), supervisors=(supervisor,))


def _ours(config: Config, folder: Path, authority: Authority, max_packet_bytes: int) -> Brokers:
    settings, ca, fleet = config.broker, authority.file(""), config.service.fleet
    workers = tuple(client_name(one) for one in config.ingest.names)
    tls = BrokerTls(fleet=fleet, role="fleet", authority=ca, workers=workers)
    main = _start(config, folder / "broker", tls, port=settings.port, max_packet_bytes=max_packet_bytes)
    tls = BrokerTls(fleet=fleet, role="claims", authority=ca, service_port=settings.claim_service_port)
    try:
        claims = _start(
            config, folder / "claims", tls, port=settings.claim_port, max_packet_bytes=settings.max_packet_bytes
        )
    except BaseException:
        main.close()
        raise
    host = settings.host
    if host in (LOOPBACK, ALL_INTERFACES):
        host = LOOPBACK  # named in the broker's certificate
    elif config.authority is not None:
        host = config.authority.host
    return Brokers(
        fleet=BrokerAddress(host=host, port=main.port, is_tls=True),
        claims=BrokerAddress(host=host, port=settings.claim_service_port, is_tls=True),
        tls=_service_tls(authority),
        authority=authority,
        supervisors=(main, claims),
    )


def _start(
    config: Config, folder: Path, tls: BrokerTls | None, *, port: int, max_packet_bytes: int
) -> BrokerSupervisor:
    is_restart = folder.exists()
    kind = config.broker.kind
    if tls is not None and kind == "auto":
        kind = "mosquitto"  # the embedded broker has no access lists
    broker = BrokerConfig(
        kind=choose_broker(kind),
        folder=make_folder(folder),
        host=config.broker.host,
        port=port,
        tls=tls,
        max_packet_bytes=max_packet_bytes,
        max_queued_bytes=max(_MIN_QUEUED_BYTES, 8 * max_packet_bytes),
    )
    watched = None if tls is None else tls.authority / "crl.pem"
    return BrokerSupervisor(BrokerProcess(broker), may_have_predecessor=is_restart, watched=watched)


def _service_tls(authority: Authority) -> Callable[[], ssl.SSLContext]:
    return lambda: client_context(authority.files("service"))
