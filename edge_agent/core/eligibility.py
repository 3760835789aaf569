"""Whether the device may train, join and send now: pure rules over what was read and what the day has used.

Laws: nothing is read here, not even a clock; a rule that is set and whose reading is missing holds; every hold names
its rule and says in plain words what was read and what it would have to be. Temperature has hysteresis: once too hot,
the device waits until it has cooled to the lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from protocol.fields import Range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.rules_settings import RulesSettings

__all__ = ["DailyUse", "Hold", "Readings", "Rule", "holds_of", "used_by"]

Rule: TypeAlias = Literal[
    "battery", "temperature", "busy", "network", "disk", "memory", "quiet-hours", "minutes", "joules", "sent-bytes"
]
Stops: TypeAlias = Literal["sending", "training", "running"]

_MB: Final = 1_000_000
_COOLING_CELSIUS: Final = 5.0  # of passive cooling within minutes; less makes a device start and stop all day
_MINUTE_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What the sensors say; None where there is none.

    Attributes:
        day: of local time, counted in days.
        minute: of that day.
        on_mains: power comes from outside; True for a machine without a battery.
        busy_fraction: of all cores, by others than the trainer.
        is_metered: the way to the network costs by the byte.
    """

    day: int
    minute: int
    on_mains: bool | None = None
    battery_fraction: float | None = None
    celsius: float | None = None
    busy_fraction: float | None = None
    is_metered: bool | None = None
    free_disk_bytes: int | None = None
    free_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyUse:
    """What training has cost on one day."""

    day: Annotated[int, Range(0, 10**7)] = 0
    train_s: Annotated[float, Range(0, 1e9)] = 0.0
    sent_bytes: Annotated[int, Range(0, 10**15)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One rule that holds the device back.

    Attributes:
        stops: ``sending`` keeps it from joining, sending and fetching, ``training`` pauses, ``running`` ends a trainer.
    """

    rule: Rule
    what: str
    stops: Stops = "training"


def used_by(use: DailyUse, day: int, *, train_s: float = 0.0, sent_bytes: int = 0) -> DailyUse:
    """Return the use after more of it; a new day begins at zero, a clock that was set back goes on."""
    if day > use.day:
        use = DailyUse(day=day)
    return replace(use, train_s=use.train_s + train_s, sent_bytes=use.sent_bytes + sent_bytes)


def holds_of(
    rules: RulesSettings, readings: Readings, use: DailyUse, *, before: tuple[Hold, ...] = ()
) -> tuple[Hold, ...]:
    """Return every rule that holds now; ``before`` is what held at the last look."""
    held = {one.rule for one in before}
    found = (
        _battery(rules, readings),
        _temperature(rules, readings, was_hot="temperature" in held),
        _busy(rules, readings),
        _network(rules, readings),
        *_room(rules, readings),
        _quiet(rules, readings),
        *_budgets(rules, use if use.day >= readings.day else DailyUse()),
    )
    return tuple(one for one in found if one is not None)


def _battery(rules: RulesSettings, readings: Readings) -> Hold | None:
    least, level = rules.min_battery_fraction, readings.battery_fraction
    if least is None or readings.on_mains:
        return None
    if level is None:
        return Hold(rule="battery", what="no sensor says whether it is on mains")
    if level > least:
        return None
    return Hold(rule="battery", what=f"the battery is at {level:.0%}; on battery it trains above {least:.0%}")


def _temperature(rules: RulesSettings, readings: Readings, *, was_hot: bool) -> Hold | None:
    most, celsius = rules.max_celsius, readings.celsius
    if most is None:
        return None
    if celsius is None:
        return Hold(rule="temperature", what="no sensor says how hot it is")
    cool = most - _COOLING_CELSIUS if rules.resume_celsius is None else rules.resume_celsius
    if celsius > (cool if was_hot else most):
        what = f"it is {celsius:.0f} °C; it trains up to {most:.0f}, and once too hot again from {cool:.0f} down"
        return Hold(rule="temperature", what=what)
    return None


def _busy(rules: RulesSettings, readings: Readings) -> Hold | None:
    most, busy = rules.max_busy_fraction, readings.busy_fraction
    if most is None:
        return None
    if busy is None:
        return Hold(rule="busy", what="it is not known yet how busy other programs keep it")
    if busy <= most:
        return None
    return Hold(rule="busy", what=f"other programs take {busy:.0%} of its cores; it trains up to {most:.0%}")


def _network(rules: RulesSettings, readings: Readings) -> Hold | None:
    if not rules.needs_unmetered or readings.is_metered is False:
        return None
    what = "its network is metered" if readings.is_metered else "no network is known to be unmetered"
    return Hold(rule="network", what=what, stops="sending")


def _room(rules: RulesSettings, readings: Readings) -> Iterator[Hold | None]:
    bounds: tuple[tuple[Rule, int | None, int | None], ...] = (
        ("disk", rules.min_free_disk_mb, readings.free_disk_bytes),
        ("memory", rules.min_free_memory_mb, readings.free_memory_bytes),
    )
    for rule, least_mb, free_bytes in bounds:
        if least_mb is not None and free_bytes is None:
            yield Hold(rule=rule, what=f"no sensor says how much {rule} is free")
        elif least_mb is not None and free_bytes is not None and free_bytes < least_mb * _MB:
            what = f"{free_bytes // _MB} MB of {rule} are free; it trains from {least_mb} on"
            yield Hold(rule=rule, what=what, stops="running")


def _quiet(rules: RulesSettings, readings: Readings) -> Hold | None:
    for hours in rules.quiet_hours:
        begin, end = (60 * int(text[:2]) + int(text[3:]) for text in hours.split("-"))
        is_in_one_day = begin <= readings.minute < end
        is_over_midnight = begin > end and (readings.minute >= begin or readings.minute < end)
        if is_in_one_day or is_over_midnight:
            return Hold(rule="quiet-hours", what=f"its owner wants it quiet from {hours.replace('-', ' to ')}")
    return None


def _budgets(rules: RulesSettings, use: DailyUse) -> Iterator[Hold | None]:
    minutes = use.train_s / _MINUTE_S
    if rules.max_minutes_a_day is not None and minutes >= rules.max_minutes_a_day:
        yield Hold(rule="minutes", what=f"it trained {minutes:.0f} of {rules.max_minutes_a_day:g} minutes today")
    joules = use.train_s * (rules.training_watts or 0.0)
    if rules.max_joules_a_day is not None and joules >= rules.max_joules_a_day:
        yield Hold(rule="joules", what=f"training took {joules:.0f} of {rules.max_joules_a_day:g} J today")
    sent_mb = use.sent_bytes / _MB
    if rules.max_sent_mb_a_day is not None and sent_mb >= rules.max_sent_mb_a_day:
        what = f"it sent {sent_mb:.1f} of {rules.max_sent_mb_a_day:g} MB today"
        yield Hold(rule="sent-bytes", what=what, stops="sending")
