from __future__ import annotations

import random

from edge_agent.core.resend import FIRST_WAIT_S, MAX_WAIT_S, Resend


def test_the_first_sending_is_at_once() -> None:
    assert Resend.begin(7.0) == Resend(7.0, 0)


def test_waits_double_are_jittered_and_bounded() -> None:
    rng = random.Random(1)
    resend, now_s = Resend.begin(0.0), 0.0
    for n in range(12):
        resend = resend.sent(now_s, rng)
        longest = min(MAX_WAIT_S, FIRST_WAIT_S * 2**n)
        assert longest / 2 <= resend.due_s - now_s <= longest
        now_s = resend.due_s


def test_two_devices_do_not_come_back_together() -> None:
    waits = {Resend.begin(0.0).sent(0.0, random.Random(seed)).due_s for seed in range(20)}
    assert len(waits) == 20


def test_a_first_call_can_be_put_off() -> None:
    assert Resend.begin(10.0, wait_s=2.5).due_s == 12.5
