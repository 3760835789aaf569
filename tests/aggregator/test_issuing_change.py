"""The issuing key changes under a real broker: who is connected stays, who was away returns, the revoked do not."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.authority import Authority
from aggregator.adapters.broker import is_available
from aggregator.adapters.issuing_keys import renew_issuing
from host.link import LinkDown, LinkUp
from tests.aggregator.secure_fleet import DAY_S, WAIT_S, SecureFleet, assert_works

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(not is_available("mosquitto"), reason="Mosquitto is not installed"),
    pytest.mark.serial,
]
READ_S = 1.0  # for the broker to read its files


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[SecureFleet]:
    made = SecureFleet(tmp_path)
    yield made
    made.close()


def change_key(fleet: SecureFleet, *, is_stolen: bool = False, revoked: tuple[str, ...] = ()) -> None:
    folder, now_unix_s = fleet.folder / "ca", time.time()
    now = datetime.fromtimestamp(now_unix_s, UTC)
    until = None if is_stolen else now_unix_s + DAY_S
    renew_issuing(folder, "f", root_key_file=folder / "root.key", keep_until_unix_s=until, now=now)
    fleet.authority = Authority(folder)
    fleet.authority.renew_own("127.0.0.1", now=now)
    revoke(fleet, *revoked)


def revoke(fleet: SecureFleet, *names: str) -> None:
    serials = [int(fleet.issued[name].serial, 16) for name in names]
    fleet.authority.write_crl(serials, unix_s=time.time())
    fleet.broker.reload()
    time.sleep(READ_S)


def comes_up(fleet: SecureFleet, name: str, files: object = None) -> bool:
    link = fleet.link(name, [f"ef/1/f/dev/{name}/down/+"], files=files)  # type: ignore[arg-type]  # TlsFiles or None
    event = link.receive(WAIT_S)
    link.close()
    assert isinstance(event, LinkUp | LinkDown)
    return isinstance(event, LinkUp)


def test_devices_of_both_issuing_keys_connect_and_who_was_connected_stays(fleet: SecureFleet) -> None:
    live, service = fleet.device("live"), fleet.service()
    away, banned = fleet.files("away"), fleet.files("banned")
    change_key(fleet, revoked=("banned",))
    assert_works(live, "live", service)  # its connection was left alone
    assert comes_up(fleet, "away", away)  # with the certificate of before
    assert comes_up(fleet, "new")
    assert not comes_up(fleet, "banned", banned)
    later = fleet.files("later")
    assert comes_up(fleet, "later", later)
    revoke(fleet, "banned", "away", "later")  # by lists of both keys
    assert not comes_up(fleet, "away", away)
    assert not comes_up(fleet, "later", later)
    fleet.broker.stop()
    fleet.broker.start()
    assert not comes_up(fleet, "away", away)
    assert comes_up(fleet, "new")


def test_after_a_theft_the_brokers_next_start_refuses_what_the_old_key_signed(fleet: SecureFleet) -> None:
    old = fleet.files("old")
    assert comes_up(fleet, "old", old)
    change_key(fleet, is_stolen=True)
    fleet.broker.stop()
    fleet.broker.start()
    assert not comes_up(fleet, "old", old)
    assert comes_up(fleet, "old")
