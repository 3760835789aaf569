"""What is asked of the demo becomes the settings of a fleet that keeps it, or one line that says why not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import pytest

from deploy import demo_privacy
from deploy.demo import _promise
from deploy.demo_privacy import Promise

if TYPE_CHECKING:
    from typing import Any

FLEET = {"n_devices": 4, "rounds": 6, "n_params": 100}


def test_without_a_wish_the_fleet_has_no_settings_of_its_own() -> None:
    assert _promise("sealed", None, None).fleet_fields(**FLEET) == {}


def test_a_budget_alone_is_central() -> None:
    promise = _promise("sealed", None, 3.0)
    assert (promise.mode, promise.has_exact_sums) == ("central", False)
    assert promise.fleet_fields(**FLEET)["privacy"]["dp"]["epsilon"] == 3.0


def test_plain_secure_sums_are_held_against_what_the_devices_put_in() -> None:
    promise = _promise("secure-sum", None, None)
    assert promise.has_exact_sums
    assert promise.fleet_fields(**FLEET)["device_privacy"]["keep_deltas"]


def test_distributed_noise_brings_secure_sums_with_it_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, ...]] = []

    def answer(*arguments: str, is_shown: bool) -> str:
        asked.append(arguments)
        assert not is_shown
        return json.dumps({"sums": {"noise_multiplier": 2.0}})

    monkeypatch.setattr(demo_privacy, "_privacy", answer)
    promise = _promise("sealed", "distributed", None)
    assert "--privacy secure-sum" in capsys.readouterr().out
    assert str(promise) == "secure-sum, distributed DP with epsilon 8"
    fields: dict[str, Any] = promise.fleet_fields(**FLEET)
    assert "--distributed" in asked[0]
    assert fields["privacy"]["dp"]["mode"] == "distributed"
    assert fields["privacy"]["dp"]["noise_multiplier"] >= 2.0
    assert fields["device_privacy"] == {"require": "secure-sum"}  # no device keeps what it put in
    assert not promise.has_exact_sums


def test_central_noise_and_secure_sums_do_not_go_together() -> None:
    with pytest.raises(click.UsageError, match="distributed"):
        _promise("secure-sum", "central", None)


def test_a_plan_that_fails_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_privacy.sys, "executable", "/bin/false")
    with pytest.raises(demo_privacy.ConfigError, match="exit code 1"):
        Promise(level="secure-sum", mode="distributed").fleet_fields(**FLEET)
