from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import cbor, jobs
from protocol.errors import MalformedMessageError, MessageTooLargeError
from protocol.fields import plain, structure
from protocol.messages import (
    Body,
    Envelope,
    Kind,
    UpdateContent,
    body_of,
    kind_of,
    pack_body,
    pack_content,
    pack_envelope,
    unpack_body,
    unpack_content,
    unpack_envelope,
)
from tests.protocol import samples, strategies

if TYPE_CHECKING:
    from hypothesis.strategies import DataObject

KINDS: tuple[Kind, ...] = get_args(Kind)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_every_body_survives_the_wire(kind: Kind, data: DataObject) -> None:
    body: Body = data.draw(strategies.instances(body_of(kind)))
    packed = pack_body(body)
    assert unpack_body(kind, packed) == body
    assert pack_body(unpack_body(kind, packed)) == packed
    assert kind_of(body) == kind


@given(strategies.instances(Envelope))
def test_every_envelope_survives_the_wire(envelope: Envelope) -> None:
    assert unpack_envelope(pack_envelope(envelope)) == envelope


@given(strategies.instances(UpdateContent))
def test_every_content_survives_the_wire(content: UpdateContent) -> None:
    assert unpack_content(pack_content(content)) == content


@pytest.mark.parametrize(
    "cls",
    [jobs.TrainJob, jobs.EvaluateJob, jobs.CheckJob, jobs.Progress, jobs.TrainResult, jobs.CheckResult, jobs.Failed],
)
@given(data=st.data())
def test_every_job_and_result_survives_a_line_of_json(cls: type, data: DataObject) -> None:
    value = data.draw(strategies.instances(cls))
    line = json.dumps(plain(value))
    assert "\n" not in line
    assert structure(cls, json.loads(line), lenient_floats=True) == value


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_unknown_or_mistyped_field_is_refused_by_name(kind: Kind) -> None:
    whole: dict[str, Any] = plain(samples.BODIES[kind])
    required = [f.name for f in dataclasses.fields(body_of(kind)) if f.default is dataclasses.MISSING]
    for name in required:
        with pytest.raises(MalformedMessageError, match=f"{name}: missing"):
            unpack_body(kind, cbor.dumps({key: value for key, value in whole.items() if key != name}))
        with pytest.raises(MalformedMessageError, match=name):
            unpack_body(kind, cbor.dumps(whole | {name: [whole[name]]}))
    with pytest.raises(MalformedMessageError, match="extra: unknown key"):
        unpack_body(kind, cbor.dumps(whole | {"extra": 1}))


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("announce", "round", -1),
        ("announce", "round", 2**31 + 1),
        ("announce", "task", "Mood"),
        ("announce", "task", "a/b"),
        ("announce", "task", "a" * 65),
        ("announce", "task", "mood\n"),
        ("announce", "bundle_id", "ab" * 31),
        ("join", "round", 0),
        ("join", "round", 1.0),
        ("join", "round", True),
        ("work", "task_key", bytes(1215)),
        ("work", "seconds_left", float("nan")),
        ("work", "seconds_left", float("inf")),
        ("work", "seconds_left", 60),
        ("work", "adapter", b""),
        ("update", "update_id", bytes(15)),
        ("receipt", "status", "taken"),
        ("receipt", "reason", "because"),
    ],
)
def test_a_field_beyond_its_bound_is_refused(kind: Kind, field: str, value: object) -> None:
    whole = plain(samples.BODIES[kind])
    with pytest.raises(MalformedMessageError, match=field) as refused:
        unpack_body(kind, cbor.dumps(whole | {field: value}))
    assert refused.value.reason == "malformed"


def test_the_round_zero_is_good_in_an_announcement_only() -> None:
    assert unpack_body("announce", cbor.dumps(plain(samples.BODIES["announce"]) | {"round": 0}))


def test_a_message_beyond_the_callers_bound_is_not_decoded() -> None:
    data = samples.golden("envelope-announce")
    with pytest.raises(MessageTooLargeError) as refused:
        unpack_envelope(data, max_bytes=len(data) - 1)
    assert (refused.value.n_bytes, refused.value.max_bytes) == (len(data), len(data) - 1)
    assert refused.value.reason == "oversize"


def test_an_envelope_of_another_version_is_refused() -> None:
    envelope = plain(unpack_envelope(samples.golden("envelope-join")))
    with pytest.raises(MalformedMessageError, match="v: expected 1 to 1"):
        unpack_envelope(cbor.dumps(envelope | {"v": 2}))
