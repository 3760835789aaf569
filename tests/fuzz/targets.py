"""What is fuzzed: every decoder that takes bytes from outside, with the errors that it may raise and what must hold.

Laws: a target lets through only the errors that its decoder promises, so that anything else is a finding; what is taken
is checked too (it encodes and decodes to itself, it is finite, it has the promised size). A first byte chooses where a
decoder has variants. ``files`` has the decoders that read files.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from aggregator.core.opening import open_delta
from host.certificates import check_chain, der_of, make_request, open_request
from host.device_certificates import check_peers
from host.link import parse_broker_url
from protocol import cbor, codec, enrolment, messages, sealing, signing, topics
from protocol.bundle import Manifest
from protocol.errors import BundleError, ConfigError, RemoteProtocolError, TrustError, UpdateError
from protocol.layout import MAX_PARAMS, Layout
from tests.fuzz.certificates import KEY, ROOT, chain
from tests.protocol import samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from protocol.messages import Kind

__all__ = ["Target", "protocol_targets"]

MAX_BYTES: Final = 1 << 20
KINDS: Final[tuple[Kind, ...]] = tuple(sorted({messages.kind_of(body) for body in samples.BODIES.values()}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One decoder: ``feed`` raises nothing but findings; ``seeds`` are good inputs to begin from."""

    name: str
    feed: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    max_len: int = 8192


def feed_cbor(data: bytes) -> None:
    """Take what is deterministic, and nothing else."""
    with contextlib.suppress(RemoteProtocolError):
        assert cbor.dumps(cbor.loads(data, max_bytes=MAX_BYTES)) == data


def feed_envelope(data: bytes) -> None:
    """Open as the service does, whoever it is from."""
    with contextlib.suppress(RemoteProtocolError):
        envelope = messages.unpack_envelope(data, max_bytes=MAX_BYTES)
        assert messages.unpack_envelope(messages.pack_envelope(envelope)) == envelope
        signing.open_envelope(envelope, fleet=samples.FLEET, key=samples.KEY.public)


def feed_body(data: bytes) -> None:
    """Decode a body of the kind that the first byte says."""
    kind = KINDS[data[0] % len(KINDS)] if data else KINDS[0]
    with contextlib.suppress(RemoteProtocolError):
        body = messages.unpack_body(kind, data[1:])
        assert messages.unpack_body(kind, messages.pack_body(body)) == body


def feed_codec(data: bytes) -> None:
    """Decode a vector of the samples' length."""
    with contextlib.suppress(UpdateError):
        vector = codec.decode(data, n_values=samples.VECTOR.size)
        assert vector.dtype == np.float32
        assert vector.shape == samples.VECTOR.shape
        assert np.isfinite(vector).all()


def feed_layout(data: bytes) -> None:
    """Read ``layout.json``."""
    with contextlib.suppress(BundleError):
        layout = Layout.from_bytes(data)
        assert 0 < layout.n_params <= MAX_PARAMS
        assert Layout.from_bytes(layout.to_bytes()) == layout


def feed_manifest(data: bytes) -> None:
    """Read ``manifest.json``."""
    with contextlib.suppress(BundleError):
        manifest = Manifest.from_bytes(data)
        assert Manifest.from_bytes(manifest.to_bytes()) == manifest
        assert all("/" not in name and name not in {".", ".."} for name in manifest.files)


def feed_sealed(data: bytes) -> None:
    """Open a sealed update: the bytes as they are, or sealed by us, so that the search gets behind the seal."""
    inner = bool(data) and data[0] % 2 == 1
    info = sealing.binding(**samples.BINDING)  # type: ignore[arg-type]
    sealed = sealing.seal(data[1:], public_raw=samples.TASK_KEY.public_raw, info=info) if inner else data[1:] or b"\0"
    update = messages.Update(
        task="mood", round=3, version=2, bundle_id=samples.BUNDLE_ID, update_id=samples.UPDATE_ID, sealed=sealed
    )
    with contextlib.suppress(RemoteProtocolError):
        open_delta(
            update,
            fleet=samples.FLEET,
            device=samples.DEVICE,
            key=samples.TASK_KEY,
            n_params=samples.VECTOR.size,
            max_bytes=MAX_BYTES,
        )


def feed_token(data: bytes) -> None:
    """Read what a person pasted."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ConfigError):
        token = enrolment.parse_token(text)
        assert enrolment.parse_token(enrolment.token_text(token)) == token


def feed_enrolment(data: bytes) -> None:
    """Open a welcome, a claim or an answer; the latter two also from behind their seals."""
    which, rest = (data[0] % 5, data[1:]) if data else (0, b"")
    key, fleet, claim_id = samples.TASK_KEY, samples.FLEET, "00"
    with contextlib.suppress(RemoteProtocolError):
        match which:
            case 0:
                enrolment.unpack_welcome(rest)
            case 1:
                enrolment.open_claim(rest, fleet=fleet, claim_id=claim_id, key=key)
            case 2:
                info = cbor.dumps(["edgefold claim", messages.PROTOCOL_VERSION, fleet, claim_id])
                sealed = sealing.seal(rest, public_raw=key.public_raw, info=info)
                enrolment.open_claim(sealed, fleet=fleet, claim_id=claim_id, key=key)
            case _:
                info = cbor.dumps(["edgefold claim answer", messages.PROTOCOL_VERSION, fleet, claim_id])
                sealed = sealing.seal(rest, public_raw=key.public_raw, info=info) if which == 3 else rest
                service = samples.KEY.public
                enrolment.open_answer(
                    sealed, fleet=fleet, claim_id=claim_id, claim=b"", answer_key=key, service_key=service
                )


def feed_request(data: bytes) -> None:
    """Open a certificate request as the service does."""
    with contextlib.suppress(RemoteProtocolError):
        open_request(data, name=samples.DEVICE)


def feed_chain(data: bytes) -> None:
    """Check certificates as a device does: two, split where the first two bytes say."""
    at = int.from_bytes(data[:2]) + 2
    with contextlib.suppress(TrustError):
        check_chain([data[2:at], data[at:]], root=ROOT, name=samples.DEVICE, key=KEY.public_key())


def feed_peers(data: bytes) -> None:
    """Check other devices' certificates as a device in a secure sum does: one and its issuer, split as in a chain."""
    at = int.from_bytes(data[:2]) + 2
    with contextlib.suppress(TrustError):
        check_peers([data[2:at]], [data[at:]], root=ROOT, unix_s=1.8e9)


def feed_addresses(data: bytes) -> None:
    """Read a broker's address and a message's topic."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ConfigError):
        parse_broker_url(text)
    device = topics.device_of(text)
    assert device is None or "/" not in device


def seeds_of_enrolment() -> list[bytes]:
    """Return a welcome, a claim and an answer, sealed and not."""
    fleet, claim_id, key, public = samples.FLEET, "00", samples.KEY, samples.TASK_KEY.public_raw
    claim = enrolment.Claim(
        device=samples.DEVICE,
        secret=bytes(16),
        verify_key=key.public.raw,
        answer_key=public,
        request=b"request",
        unix_s=1e9,
    )
    answer = enrolment.ClaimAnswer(claim=enrolment.fingerprint(b""), status="pending", unix_s=1e9)
    welcome = enrolment.Welcome(fleet=fleet, root=b"root", service_key=key.public.raw, claim_key=public)
    claimed = enrolment.seal_claim(claim, fleet=fleet, claim_id=claim_id, claim_key=public, key=key)
    answered = enrolment.seal_answer(answer, fleet=fleet, claim_id=claim_id, answer_key=public, key=key)
    context = {kind: cbor.dumps([f"edgefold {kind}", 1, fleet, claim_id]) for kind in ("claim", "claim answer")}
    return [
        b"\0" + enrolment.pack_welcome(welcome),
        b"\1" + claimed,
        b"\2" + samples.TASK_KEY.open(claimed, info=context["claim"]),
        b"\3" + samples.TASK_KEY.open(answered, info=context["claim answer"]),
        b"\4" + answered,
    ]


def seeds_of_token() -> list[bytes]:
    """Return a token."""
    token = enrolment.Token(fleet=samples.FLEET, url="mqtts://127.0.0.1:8884", welcome=bytes(32), secret=bytes(16))
    return [enrolment.token_text(token).encode()]


def seeds_of_chain() -> list[bytes]:
    """Return the good chain."""
    device, issuer = der_of(chain())
    return [len(device).to_bytes(2) + device + issuer]


def seeds_of_body() -> list[bytes]:
    """Return a body of each kind."""
    return [bytes([KINDS.index(messages.kind_of(b))]) + messages.pack_body(b) for b in samples.BODIES.values()]


def seeds_of_sealed() -> list[bytes]:
    """Return a sealed update, and the content with a real vector."""
    contents = [messages.pack_content(samples.CONTENT)]
    for one in samples.CODECS.values():
        delta = codec.encode(samples.VECTOR, one)
        contents.append(
            messages.pack_content(messages.UpdateContent(n_examples=1, n_steps=1, loss=0.5, train_s=1.0, delta=delta))
        )
    return [b"\0" + samples.golden("sealed"), *(b"\1" + content for content in contents)]


def protocol_targets() -> list[Target]:
    """Return the decoders that take bytes from the wire."""
    bodies = [messages.pack_body(body) for body in samples.BODIES.values()]
    envelopes = [samples.golden(path.name.split(".")[0]) for path in sorted(samples.GOLDEN.glob("envelope-*"))]
    vectors = [codec.encode(samples.VECTOR, one) for one in samples.CODECS.values()]
    return [
        Target(name="cbor", feed=feed_cbor, seeds=lambda: bodies),
        Target(name="envelope", feed=feed_envelope, seeds=lambda: envelopes),
        Target(name="body", feed=feed_body, seeds=seeds_of_body),
        Target(name="codec", feed=feed_codec, seeds=lambda: vectors),
        Target(name="layout", feed=feed_layout, seeds=lambda: [samples.LAYOUT.to_bytes()]),
        Target(name="manifest", feed=feed_manifest, seeds=lambda: [samples.manifest().to_bytes()]),
        Target(name="sealed", feed=feed_sealed, seeds=seeds_of_sealed),
        Target(name="token", feed=feed_token, seeds=seeds_of_token),
        Target(name="enrolment", feed=feed_enrolment, seeds=seeds_of_enrolment),
        Target(name="request", feed=feed_request, seeds=lambda: [make_request(samples.DEVICE, KEY)]),
        Target(name="chain", feed=feed_chain, seeds=seeds_of_chain),
        Target(name="peers", feed=feed_peers, seeds=seeds_of_chain),
        Target(
            name="addresses", feed=feed_addresses, seeds=lambda: [b"mqtts://host:8883", b"ef/1/garden/dev/pi-1/up/join"]
        ),
    ]
