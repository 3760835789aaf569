"""A round's devices over the fake wire: more than needed, lost ones, chosen ones, and calls that are spread."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.selection_settings import SelectionSettings
from protocol.fields import FieldError
from protocol.messages import Announce, Decline, Work
from tests.aggregator.workbench import TASK, Bench, Device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def joined(bench: Bench, names: str) -> list[Device]:
    devices = [bench.device(name) for name in names]
    for device in devices:
        device.join()
        bench.settle()
    return devices


def update(bench: Bench, *devices: Device) -> None:
    for device in devices:
        device.update()
        bench.settle()


def with_selection(make_bench: Callable[..., Bench], cohort: int = 3, **selection: Any) -> Bench:
    return make_bench(cohort=cohort, min_cohort=2, selection=SelectionSettings(**selection))


def test_a_device_that_dies_does_not_hold_an_over_selected_round(make_bench: Callable[..., Bench]) -> None:
    bench = with_selection(make_bench, over_select=1.3)
    a, b, c, d, e = joined(bench, "abcde")
    assert e.last(Decline).reason == "not-selected"
    assert d.all(Work)
    update(bench, a, b)
    assert bench.version == 0
    update(bench, d)  # c died
    assert (bench.version, bench.round) == (1, 2)
    late = c.make_update()
    c.publish(late, "update")
    bench.settle()
    assert c.receipts() == [("refused", "late")]
    assert bench.refusals()["late"] == 1


def test_a_lost_device_is_left_after_a_multiple_of_the_others_time(
    make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edgefold")
    bench = with_selection(make_bench, straggler_factor=4.0, straggler_least_s=1.0)
    a, b, _lost = joined(bench, "abc")
    bench.clock.now += 5
    update(bench, a, b)
    bench.clock.now += 15  # 20 s after the last join: four times the median of 5 s
    bench.settle()
    assert bench.version == 0
    bench.clock.now += 1
    bench.settle()
    assert (bench.version, bench.round) == (1, 2)
    (why,) = [record.facts["why"] for record in caplog.records if record.getMessage() == "round-closing"]  # type: ignore[attr-defined]
    assert why == "stragglers-left"


def test_a_round_that_was_told_to_waits_until_its_deadline(make_bench: Callable[..., Bench]) -> None:
    bench = with_selection(make_bench, straggler_factor=0.0)
    a, b, _lost = joined(bench, "abc")
    update(bench, a, b)
    bench.clock.now += 99
    bench.settle()
    assert bench.version == 0
    bench.clock.now += 2
    bench.settle()
    assert bench.version == 1


def test_after_a_restart_the_lost_have_the_whole_patience_again(make_bench: Callable[..., Bench]) -> None:
    bench = with_selection(make_bench, straggler_factor=2.0, straggler_least_s=10.0)
    a, b, _lost = joined(bench, "abc")
    update(bench, a, b)
    bench.clock.now += 9
    bench.restart()
    bench.settle()
    bench.clock.now += 9
    bench.settle()
    assert bench.version == 0
    bench.clock.now += 2
    bench.settle()
    assert bench.version == 1


def test_no_patience_runs_out_while_the_broker_is_away(make_bench: Callable[..., Bench]) -> None:
    bench = with_selection(make_bench, straggler_factor=2.0, straggler_least_s=10.0)
    a, b, _lost = joined(bench, "abc")
    update(bench, a, b)
    bench.broker.drop()
    bench.settle()
    bench.clock.now += 60
    bench.settle()
    bench.broker.restore()
    bench.settle()
    assert bench.version == 0
    bench.clock.now += 11
    bench.settle()
    assert bench.version == 1


def test_a_round_that_gathers_chooses_among_all_who_came(make_bench: Callable[..., Bench]) -> None:
    bench = with_selection(make_bench, gather_s=5.0)
    devices = joined(bench, "abcdefgh")
    declined = [device for device in devices if device.all(Decline)]
    assert len(declined) == 5
    assert not any(device.all(Work) for device in devices)
    bench.clock.now += 6
    bench.settle()
    working = [device for device in devices if device.all(Work)]
    assert len(working) == 3
    assert not set(working) & set(declined)
    assert set(bench.store.joined(TASK, 1)) == {device.name for device in working}
    update(bench, *working)
    assert bench.version == 1


def test_places_that_nobody_took_go_to_whoever_comes_later(make_bench: Callable[..., Bench]) -> None:
    bench = with_selection(make_bench, gather_s=5.0)
    (a,) = joined(bench, "a")
    bench.clock.now += 6
    bench.settle()
    b, c = joined(bench, "bc")
    assert all(device.all(Work) for device in (a, b, c))


def test_a_restart_while_gathering_asks_everybody_again(make_bench: Callable[..., Bench]) -> None:
    bench = with_selection(make_bench, gather_s=5.0)
    (a,) = joined(bench, "a")
    bench.restart()
    a.join()  # an agent repeats what got no answer
    bench.settle()
    bench.clock.now += 6
    bench.settle()
    assert len(a.all(Work)) == 1


def test_the_announcement_says_how_far_to_spread_the_calls(make_bench: Callable[..., Bench]) -> None:
    bench = with_selection(make_bench, spread_s=30.0)
    bench.settle()
    assert bench.device("a").last(Announce).spread_s == 30.0


def choose(bench: Bench, devices: list[Device]) -> list[Device]:
    """Let the devices offer themselves; return those that are handed work once the time to gather is over."""
    before = {one.name: len(one.all(Work)) for one in devices}
    for device in devices:
        device.join()
        bench.settle()
    bench.clock.now += 11
    bench.settle()
    return [one for one in devices if len(one.all(Work)) > before[one.name]]


def test_devices_that_were_quick_are_preferred_and_slow_ones_are_seldom_drawn(make_bench: Callable[..., Bench]) -> None:
    selection = SelectionSettings(gather_s=10.0, prefer_within_s=20.0, exploration=0.001)
    bench = make_bench(cohort=4, min_cohort=2, rounds=5, selection=selection)
    devices = [bench.device(name) for name in "abcd"]
    assert choose(bench, devices) == devices
    for device in devices:
        bench.clock.now += 7  # 7, 14, 21, 28 s after their work
        update(bench, device)
    assert (bench.version, bench.round) == (1, 2)
    bench.settings = dataclasses.replace(bench.settings, cohort=2)
    bench.restart()
    bench.settle()
    assert [one.name for one in choose(bench, devices)] == ["a", "b"]  # by chance otherwise: twice in a thousand


def test_a_round_has_some_of_each_of_the_operators_tags(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    tags = tmp_path / "tags.toml"
    tags.write_text("[tags]\n" + "".join(f'{name} = "indoors"\n' for name in "abcdefg") + 'z = "roof"\n')
    selection = SelectionSettings(gather_s=10.0, tags=str(tags))
    bench = make_bench(cohort=2, min_cohort=2, selection=selection)
    chosen = choose(bench, [bench.device(name) for name in "abcdefgz"])
    assert len(chosen) == 2
    assert chosen[-1].name == "z"


@pytest.mark.parametrize("preference", [{"prefer_within_s": 9.0}, {"tags": "tags.toml"}])
def test_a_preference_needs_a_time_to_gather(preference: dict[str, Any]) -> None:
    with pytest.raises(FieldError, match="gather_s"):
        SelectionSettings(**preference)
