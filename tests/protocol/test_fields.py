from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import jobs
from protocol.bundle import Manifest
from protocol.fields import FieldError, plain, structure
from protocol.layout import Layout, TensorSlot
from protocol.messages import Envelope, Update, Work
from protocol.plan import Optimizer, Plan
from tests.protocol import samples, strategies

if TYPE_CHECKING:
    from hypothesis.strategies import DataObject

DECLARED = (Plan, Work, Update, Envelope, Layout, Manifest, jobs.TrainJob, jobs.EvaluateJob, jobs.CheckResult)


def hold_the_law(cls: type, value: object, *, lenient: bool) -> None:
    """Demand a value of ``cls``, or a ``FieldError`` of one printable line; any other exception fails the test."""
    try:
        outcome: object = structure(cls, value, lenient_floats=lenient)
    except FieldError as error:
        outcome = error
    assert isinstance(outcome, cls) or str(outcome).isprintable()


@pytest.mark.parametrize("cls", DECLARED)
@pytest.mark.parametrize("lenient", [False, True])
@given(data=st.data())
def test_arbitrary_values_give_a_valid_value_or_a_field_error(cls: type, *, lenient: bool, data: DataObject) -> None:
    value = data.draw(strategies.plain_values())
    hold_the_law(cls, value, lenient=lenient)


WHOLE: dict[type, Any] = {
    Plan: plain(Plan(optimizer=Optimizer(), codec=samples.CODECS["float16"])),
    Work: plain(samples.BODIES["work"]),
    Layout: plain(samples.LAYOUT),
    Manifest: plain(samples.manifest()),
}


@pytest.mark.parametrize("cls", list(WHOLE))
@given(data=st.data())
def test_one_changed_place_gives_a_valid_value_or_a_field_error(cls: type, data: DataObject) -> None:
    value = copy.deepcopy(WHOLE[cls])
    place = value
    while isinstance(place, dict | list) and place:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if data.draw(st.booleans()) or not isinstance(place[key], dict | list):
            place[key] = data.draw(strategies.plain_values())
            break
        place = place[key]
    hold_the_law(cls, value, lenient=data.draw(st.booleans()))


def test_an_error_names_the_path() -> None:
    value = plain(samples.LAYOUT)
    value["tensors"][1]["shape"][0] = "3"
    with pytest.raises(FieldError, match=r"tensors\[1\]\.shape\[0\]: expected int, got str"):
        structure(Layout, value)


def test_text_formats_may_write_an_integer_for_a_float_but_cbor_may_not() -> None:
    assert structure(Optimizer, {"learning_rate": 1}, lenient_floats=True).learning_rate == 1.0
    with pytest.raises(FieldError, match="learning_rate: expected float, got int"):
        structure(Optimizer, {"learning_rate": 1})


@pytest.mark.parametrize("number", [10**400, -(10**400), 10**5000, 2**53 + 1], ids=["400", "-400", "5000", "2**53"])
def test_an_integer_that_no_float_holds_is_a_field_error(number: int) -> None:
    with pytest.raises(FieldError, match="learning_rate"):
        structure(Optimizer, {"learning_rate": number}, lenient_floats=True)
    with pytest.raises(FieldError, match="epochs"):
        structure(Plan, {"optimizer": {}, "codec": {}, "epochs": number})


def test_a_bool_is_no_integer() -> None:
    with pytest.raises(FieldError, match="epochs: expected int, got bool"):
        structure(Plan, {"optimizer": {}, "codec": {}, "epochs": True})


def test_an_error_shows_little_of_a_value_and_nothing_of_bytes() -> None:
    with pytest.raises(FieldError) as long:
        structure(Optimizer, {"name": "x" * 10_000})
    assert len(str(long.value)) < 200
    with pytest.raises(FieldError) as secret:
        structure(Optimizer, {"name": b"secret"})
    assert "secret" not in str(secret.value)


def test_a_key_cannot_break_the_line_of_an_error() -> None:
    with pytest.raises(FieldError) as refused:
        structure(Optimizer, {"x\ny\x1b[31m": 1})
    assert str(refused.value).isprintable()


def test_the_length_of_an_array_is_checked_before_its_items() -> None:
    slot = plain(TensorSlot(name="a", shape=(1,), offset=0, role="head"))
    with pytest.raises(FieldError, match="tensors: expected a length of 1 to 100000, got 100001"):
        structure(Layout, {"tensors": [slot] * 100_000 + ["wrong"]})


@given(strategies.instances(Plan))
def test_plain_is_the_inverse_of_structure(plan: Plan) -> None:
    assert structure(Plan, plain(plan)) == plan
