"""``[rules]``: when this device leaves training alone, for its owner's sake. What is not set is no rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.fields import FieldError, Length, Pattern, Range

__all__ = ["RulesSettings"]

_Fraction = Annotated[float, Range(0, 1)]
_Celsius = Annotated[float, Range(-40, 120)]
_Hours = Annotated[str, Length(11, 11), Pattern(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d", "HH:MM-HH:MM")]
_Path = Annotated[str, Length(1, 4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesSettings:
    """The owner's rules; a rule whose sensor is missing holds training back and says so.

    Attributes:
        min_battery_fraction: on mains, or a battery above it; 1 means mains alone.
        max_celsius: the hottest sensor is not above it.
        resume_celsius: once too hot, not before it has cooled to this; five degrees below by default.
        max_busy_fraction: of all cores, by other programs than the trainer.
        needs_unmetered: no joining, sending or fetching by a metered network; training goes on.
        metered_interfaces: whose network counts as metered, by name, ``*`` at the end for any ending.
        min_free_disk_mb: of the agent's disk; below it training is ended.
        min_free_memory_mb: available to programs; below it training is ended.
        quiet_hours: local times in which the device does not train.
        max_minutes_a_day: of training, by the clock.
        max_joules_a_day: of training, at ``training_watts``.
        training_watts: what training costs beyond idling; a Pi 4 takes some 3.
        max_sent_mb_a_day: a round is not joined beyond it.
        cpu_fraction: of all cores that a trainer may take where cgroups can be used.
        look_every_s: between two looks at the sensors while there is something to decide.
        end_after_s: a paused trainer is ended, and its memory given back; it goes on from its last checkpoint.
        termux: ask Termux:API for battery, temperature and Wi-Fi, on a phone.
        readings: a JSON file with readings, which count before the sensors'; of at most ``readings_age_s``.
    """

    min_battery_fraction: _Fraction | None = None
    max_celsius: _Celsius | None = None
    resume_celsius: _Celsius | None = None
    max_busy_fraction: _Fraction | None = None
    needs_unmetered: bool = False
    metered_interfaces: Annotated[tuple[Annotated[str, Length(1, 64)], ...], Length(0, 32)] = (
        "wwan*",
        "ppp*",
        "rmnet*",
        "usb*",
    )
    min_free_disk_mb: Annotated[int, Range(0, 10**9)] | None = None
    min_free_memory_mb: Annotated[int, Range(0, 10**9)] | None = None
    quiet_hours: Annotated[tuple[_Hours, ...], Length(0, 16)] = ()
    max_minutes_a_day: Annotated[float, Range(0, 1440)] | None = None
    max_joules_a_day: Annotated[float, Range(0, 1e9)] | None = None
    training_watts: Annotated[float, Range(0.001, 10_000)] | None = None
    max_sent_mb_a_day: Annotated[float, Range(0, 1e6)] | None = None
    cpu_fraction: Annotated[float, Range(0.01, 1)] | None = None
    look_every_s: Annotated[float, Range(0.05, 3600)] = 10.0
    end_after_s: Annotated[float, Range(0, 1e6)] = 600.0
    termux: bool = False
    readings: _Path | None = None
    readings_age_s: Annotated[float, Range(1, 1e6)] = 600.0

    def __post_init__(self) -> None:
        """Refuse rules that cannot be kept."""
        if self.max_joules_a_day is not None and self.training_watts is None:
            raise FieldError("max_joules_a_day: needs training_watts")
        if self.resume_celsius is not None and (self.max_celsius is None or self.resume_celsius > self.max_celsius):
            raise FieldError("resume_celsius: expected a temperature of at most max_celsius")
