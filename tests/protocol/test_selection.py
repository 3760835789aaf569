"""What of an adapter a device trains and sends under a strategy's terms."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.layout import Layout, TensorSlot
from protocol.messages import Work, pack_body, unpack_body
from protocol.plan import DeviceTerms, Plan
from protocol.selection import n_update_values, personal_ranges, rank_ranges, sent_ranges, trained_ranges

A = TensorSlot(name="q.lora_A", shape=(4, 3), offset=0, role="lora_A")  # values 0 to 11
B = TensorSlot(name="q.lora_B", shape=(2, 4), offset=12, role="lora_B")  # values 12 to 19
HEAD = TensorSlot(name="head", shape=(5,), offset=20, role="head")
LAYOUT = Layout(tensors=(A, B, HEAD))
ROLES = st.lists(st.sampled_from(["lora_A", "lora_B", "head"]), min_size=1, max_size=2, unique=True).map(tuple)
TERMS = st.builds(
    DeviceTerms,
    has_controls=st.sampled_from([None, True]),
    frozen_roles=st.none() | ROLES,
    personal_roles=st.none() | ROLES,
    lora_rank=st.none() | st.integers(1, 6),
)


def test_without_terms_everything_is_trained_and_sent() -> None:
    for terms in (None, DeviceTerms(), DeviceTerms(proximal_mu=0.1), DeviceTerms(lora_rank=4)):
        assert sent_ranges(LAYOUT, terms) == trained_ranges(LAYOUT, terms) == ((0, 25),)
        assert n_update_values(LAYOUT, terms) == 25


def test_frozen_tensors_are_neither_trained_nor_sent() -> None:
    terms = DeviceTerms(frozen_roles=("lora_A",))
    assert trained_ranges(LAYOUT, terms) == sent_ranges(LAYOUT, terms) == ((12, 25),)


def test_personal_tensors_are_trained_and_not_sent() -> None:
    terms = DeviceTerms(personal_roles=("lora_B", "head"))
    assert trained_ranges(LAYOUT, terms) == ((0, 25),)
    assert sent_ranges(LAYOUT, terms) == ((0, 12),)
    assert personal_ranges(LAYOUT, terms) == ((12, 25),)


def test_a_rank_is_the_first_rows_of_a_and_the_first_columns_of_b() -> None:
    assert rank_ranges(LAYOUT, 2) == ((0, 6), (12, 14), (16, 18), (20, 25))


def test_control_variates_double_an_update() -> None:
    assert n_update_values(LAYOUT, DeviceTerms(has_controls=True)) == 50


@given(TERMS)
def test_what_is_sent_is_trained_and_ranges_ascend(terms: DeviceTerms) -> None:
    sent, trained = sent_ranges(LAYOUT, terms), trained_ranges(LAYOUT, terms)
    positions = {i for begin, end in trained for i in range(begin, end)}
    assert all(i in positions for begin, end in sent for i in range(begin, end))
    flat = [bound for one in trained for bound in one]
    assert flat == sorted(flat)


def test_a_plan_without_terms_says_nothing_of_them_on_the_wire() -> None:
    work = {"task": "t", "round": 1, "version": 0, "bundle_id": "b" * 64, "adapter": b"a"}
    facts = {**work, "task_key": bytes(1216), "seconds_left": 1.0}
    plain = pack_body(Work(**facts, plan=Plan()))  # type: ignore[arg-type]
    assert b"terms" not in plain
    with_terms = Work(**facts, plan=Plan(terms=DeviceTerms(frozen_roles=("lora_A",))))  # type: ignore[arg-type]
    assert unpack_body("work", pack_body(with_terms)) == with_terms
