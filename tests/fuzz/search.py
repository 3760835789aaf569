"""The process that searches one target: ``python -m tests.fuzz.search TARGET`` and libFuzzer's arguments.

Coverage leads the search (Atheris, libFuzzer); half of the changes are made to the CBOR or JSON value behind the bytes
rather than to the bytes, because blind changes seldom leave a deterministic encoding deterministic. The address space
is limited, so that a decoder which allocates what a stranger claims ends here and not with the machine.
"""

from __future__ import annotations

import json
import random
import resource
import sys
from typing import Any, Final

import atheris

with atheris.instrument_imports(include=["protocol", "host", "aggregator", "edge_agent", "json", "tomllib", "csv"]):
    from protocol import cbor
    from protocol.errors import RemoteProtocolError
    from tests.fuzz import bounds, corpus

MAX_ADDRESS_SPACE_BYTES: Final = 4 << 30  # numpy, onnxruntime-free decoders and libFuzzer itself map 1.5 GB
ODD: Final = (0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64 - 1, 1.5, float("inf"), float("nan"), "", "a" * 65, "../a", b"")
MORE_ODD: Final = (None, True, [], {}, [[]], {"a": 0}, bytes(4097), "\u00e9", "a/b", b"\xff" * 32)


def main() -> None:
    """Search until libFuzzer has had enough."""
    name = sys.argv.pop(1)
    target = corpus.target(name)
    for data in target.seeds():  # whatever loads only once loads before the limits hold
        target.feed(data)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE_BYTES, MAX_ADDRESS_SPACE_BYTES))
    atheris.Setup(sys.argv, lambda data: bounds.check(target, data), custom_mutator=mutate)
    atheris.Fuzz()


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Return a changed input: libFuzzer's change of the bytes, or ours of the value in them."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        return bytes(atheris.Mutate(data, max_size))
    for n_prefix in (0, 1):
        changed = _changed(bytes(data[n_prefix:]), rng)
        if changed is not None and len(changed) + n_prefix <= max_size:
            return bytes(data[:n_prefix]) + changed
    return bytes(atheris.Mutate(data, max_size))


def _changed(data: bytes, rng: random.Random) -> bytes | None:
    try:
        return cbor.dumps(_spoil(cbor.loads(data, max_bytes=1 << 20), rng))
    except RemoteProtocolError:
        pass
    except (TypeError, ValueError, OverflowError):  # changed into what has no encoding
        return None
    try:
        return json.dumps(_spoil(json.loads(data), rng), default=str).encode()
    except (ValueError, RecursionError, TypeError):
        return None


def _spoil(value: Any, rng: random.Random) -> Any:
    if rng.random() < 0.9:
        if isinstance(value, dict) and value:
            return _spoil_map(value, rng)
        if isinstance(value, list) and value:
            return _spoil_list(value, rng)
    if isinstance(value, bytes) and value and rng.random() < 0.7:
        inner = _changed(value, rng)
        return inner if inner is not None else bytes(atheris.Mutate(value, len(value) + 8))
    if isinstance(value, int) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 2**31, -(2**31)))
    return rng.choice(ODD + MORE_ODD)


def _spoil_map(value: dict[Any, Any], rng: random.Random) -> dict[Any, Any]:
    key = rng.choice(list(value))
    match rng.randrange(8):
        case 0:
            return {k: v for k, v in value.items() if k != key}
        case 1:
            return value | {rng.choice(["x", "kind", "v", ""]): value[key]}
        case _:
            return value | {key: _spoil(value[key], rng)}


def _spoil_list(value: list[Any], rng: random.Random) -> list[Any]:
    at = rng.randrange(len(value))
    match rng.randrange(6):
        case 0:
            return value[:at] + value[at + 1 :]
        case 1:
            return value + value[at : at + 1]
        case _:
            return [*value[:at], _spoil(value[at], rng), *value[at + 1 :]]


if __name__ == "__main__":
    main()
