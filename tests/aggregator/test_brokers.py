"""Which broker is started for which settings, and which settings are refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.authority import make_authority
from aggregator.adapters.broker import BrokerConfig
from aggregator.adapters.mosquitto_files import BrokerTls, mosquitto_config
from aggregator.brokers import make_brokers
from aggregator.config import AuthoritySettings, BrokerSettings, Config, DevicesSettings, ServiceSettings, load_config
from protocol.errors import ConfigError
from protocol.fields import FieldError

if TYPE_CHECKING:
    from pathlib import Path


def config(folder: Path, broker: BrokerSettings, *, secure: bool) -> Config:
    authority = AuthoritySettings(folder=str(folder / "ca"), host="127.0.0.1")
    return Config(
        service=ServiceSettings(fleet="f", folder=str(folder), key="k"),
        broker=broker,
        authority=authority if secure else None,
        devices=DevicesSettings(registry="devices.toml"),
    )


def test_a_broker_without_certificates_must_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="insecure_loopback = true"):
        make_brokers(config(tmp_path, BrokerSettings(), secure=False), tmp_path, max_packet_bytes=1 << 20)


def test_it_can_be_asked_for_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "aggregator.toml"
    path.write_text('[service]\nfleet = "f"\nfolder = "s"\nkey = "k"\n[devices]\nregistry = "d.toml"\n')
    assert not load_config(path).broker.insecure_loopback
    assert load_config(path, insecure_loopback=True).broker.insecure_loopback


@pytest.mark.parametrize(
    ("url", "claim_url", "secure", "words"),
    [
        ("mqtts://127.0.0.1", None, False, "go together"),
        ("mqtt://127.0.0.1", None, True, "go together"),
        ("mqtts://127.0.0.1", None, True, "broker.claim_url"),
        ("mqtts://127.0.0.1", "mqtt://127.0.0.1", True, "broker.claim_url"),
    ],
)
def test_a_url_and_the_authority_must_agree(
    tmp_path: Path, url: str, claim_url: str | None, words: str, *, secure: bool
) -> None:
    make_authority(tmp_path / "ca", fleet="f", host="127.0.0.1", now=datetime.now(UTC))
    settings = BrokerSettings(url=url, claim_url=claim_url)
    with pytest.raises(ConfigError, match=words):
        make_brokers(config(tmp_path, settings, secure=secure), tmp_path, max_packet_bytes=1 << 20)


def test_the_embedded_broker_is_refused_with_tls(tmp_path: Path) -> None:
    tls = BrokerTls(fleet="f", role="fleet", authority=tmp_path)
    with pytest.raises(ConfigError, match="no access lists"):
        BrokerConfig(kind="embedded", folder=tmp_path, tls=tls)


def test_a_fleet_that_nobody_can_belong_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=r"devices\.registry"):
        Config(service=ServiceSettings(fleet="f", folder=str(tmp_path), key="k"))


def test_no_listener_with_certificates_is_anonymous_but_the_strangers_own(tmp_path: Path) -> None:
    for role, n_anonymous in (("fleet", 0), ("claims", 1)):
        tls = BrokerTls(fleet="f", role=role, authority=tmp_path, service_port=2)  # type: ignore[arg-type]
        text = mosquitto_config(BrokerConfig(kind="mosquitto", folder=tmp_path, host="0.0.0.0", tls=tls), port=1)  # noqa: S104
        listeners = text.split("\nlistener ") if text.startswith("per_listener") else text.split("listener ")
        assert sum("allow_anonymous true" in one for one in listeners) == n_anonymous
        assert text.count("tls_version tlsv1.3") == text.count("certfile") == len(listeners) - 1
        assert text.count("require_certificate true") == 1
