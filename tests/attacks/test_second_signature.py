"""Whoever can forge Ed25519 (a quantum computer) and sits on the wire: messages of parties that sign twice are no use.

The forger here simply holds the Ed25519 keys, and leaves the second signature out, keeps an old one or makes its own.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from protocol.errors import BadSignatureError
from protocol.messages import Join, Renew, Work, unpack_envelope
from protocol.second_signature import SecondSigningKey
from protocol.signing import SigningKey, VerifyKey, open_envelope, sign
from tests.aggregator.workbench import Bench
from tests.edge_agent.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def twice(key: SigningKey) -> SigningKey:
    """Return the same Ed25519 key, with a second one."""
    return SigningKey(key.raw, second=SecondSigningKey.generate())


def once(key: SigningKey) -> SigningKey:
    """Return what the forger has."""
    return SigningKey(key.raw)


FORGERS = pytest.mark.parametrize("forger", [once, twice], ids=["left-out", "another-key"])


@FORGERS
def test_an_update_without_its_devices_second_signature_is_not_taken(
    tmp_path: Path, forger: Callable[[SigningKey], SigningKey]
) -> None:
    bench = Bench(tmp_path, rounds=3)
    a, b = bench.device("a"), bench.device("b")
    a.key = twice(a.key)
    bench.devices["a"] = a.key.public
    for device in (a, b):
        device.join()
    bench.settle()
    a.publish(a.make_update(), "update", key=forger(a.key))
    bench.settle()
    bench.restart()
    a.publish(a.make_update(), "update", key=forger(a.key))
    bench.settle()
    assert bench.refusals() == {"bad-signature": 2}
    a.update(seed=1)
    b.update(seed=1)  # is not known to sign twice, and does not
    bench.settle()
    assert bench.version == 1


@FORGERS
def test_a_device_that_knows_the_services_second_key_believes_nothing_without_it(
    tmp_path: Path, forger: Callable[[SigningKey], SigningKey]
) -> None:
    rig = Rig(tmp_path)
    rig.crash()
    rig.service_key = twice(rig.service_key)
    rig.start()
    rig.say(rig.announce(3), key=forger(rig.service_key))
    assert rig.heard(Join) == []
    rig.say(rig.announce(3))
    assert [join.round for join in rig.heard(Join)] == [3]
    rig.say(rig.work(3), key=forger(rig.service_key))
    assert rig.trainer.jobs == []
    rig.say(rig.work(3))
    assert len(rig.trainer.jobs) == 1
    rig.device_folder.close()


def test_what_the_service_sends_is_signed_twice(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rounds=3)
    bench.stop()
    bench.service_key = twice(bench.service_key)
    bench.start()
    a = bench.device("a")
    a.join()
    bench.settle()
    assert a.last(Work).round == 1  # the device's side of the bench checks the second signature
    sent = [data for topic, data in bench.broker.traffic if "/up/" not in topic]
    assert all(unpack_envelope(data).second_signature is not None for data in sent[-2:])


def test_a_second_signature_holds_for_its_own_message_alone() -> None:
    key = twice(SigningKey.generate())
    joins = [Join(task="t", round=round_, bundle_id="b" * 64) for round_ in (1, 2)]
    first, other = (unpack_envelope(sign(join, fleet="f", sender="pi", key=key)) for join in joins)
    assert open_envelope(first, fleet="f", key=key.public) == joins[0]
    for taken in (other.second_signature, bytes(3309), None):
        with pytest.raises(BadSignatureError, match="signs twice"):
            open_envelope(dataclasses.replace(first, second_signature=taken), fleet="f", key=key.public)
    with pytest.raises(BadSignatureError):
        open_envelope(dataclasses.replace(first, signature=other.signature), fleet="f", key=key.public)
    renew = sign(Renew(request=b"r"), fleet="f", sender="pi", key=key)
    assert open_envelope(unpack_envelope(renew), fleet="f", key=VerifyKey(key.public.raw)) == Renew(request=b"r")
