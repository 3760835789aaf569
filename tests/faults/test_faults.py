"""The short versions of ``make test-faults`` and ``make test-flaps``; each a process of its own, since they fork."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.host.mosquitto import BINARY, MISSING


def told(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_device_whose_power_is_cut_at_any_step_comes_back_and_says_everything_once() -> None:
    assert "kills 40," in told("tests.faults", "--kills", "40", "--seed", "7")


@pytest.mark.skipif(BINARY is None, reason=MISSING)
def test_a_device_whose_network_comes_and_goes_says_everything_once() -> None:
    assert "flaps 4," in told("tests.faults.flaps", "--flaps", "4", "--seed", "7")
