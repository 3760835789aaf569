"""Reads what the rules look at: Linux's sysfs and procfs, Termux:API on a phone, a file that somebody else writes.

Laws: a sensor that is missing, strange or slow is a reading of None, never an error; nothing is kept open; what is read
is bounded. Each reader returns the fields that it knows, by their names in ``Readings``, and later ones count more.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent.core.eligibility import Readings
from host.durable import read_bytes
from protocol.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.rules_settings import RulesSettings

__all__ = ["LinuxSensors", "make_sensors", "read_file", "read_termux"]

_MAX_BYTES: Final = 64 << 10
_TERMUX_S: Final = 5.0
_SANE_CELSIUS: Final = (-40.0, 150.0)  # thermal zones that are not wired say 0 K or 2^31
_UTIME, _STIME, _CUTIME, _CSTIME = 11, 12, 13, 14  # of proc(5)'s fields after the name
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "on_mains": (bool,),
    "is_metered": (bool,),
    "battery_fraction": (int, float),
    "celsius": (int, float),
    "busy_fraction": (int, float),
    "free_disk_bytes": (int,),
    "free_memory_bytes": (int,),
}


class LinuxSensors:
    """Linux's own; remembers the processor's counters between two readings."""

    def __init__(self, folder: Path, *, metered: Sequence[str], root: Path = Path("/")) -> None:
        """Look at the disk of ``folder``, and at proc and sys below ``root``."""
        self._folder, self._metered, self._root = folder, metered, root
        self._ticks: tuple[float, float] | None = None  # busy and all, since the start

    def read(self, trainer_pid: int | None) -> dict[str, Any]:
        """Return what is known; the trainer's own work does not count as busy."""
        on_mains, fraction = self._power()
        return {
            "on_mains": on_mains,
            "battery_fraction": fraction,
            "celsius": self._celsius(),
            "busy_fraction": self._busy(trainer_pid),
            "is_metered": self._is_metered(),
            "free_disk_bytes": self._free_disk(),
            "free_memory_bytes": self._free_memory(),
        }

    def _power(self) -> tuple[bool | None, float | None]:
        levels, is_fed, has_battery = [], False, False
        for supply in sorted((self._root / "sys/class/power_supply").glob("*")):
            kind = self._text(supply / "type")
            if kind == "Battery" and self._text(supply / "scope") != "Device":  # a mouse's is not ours
                has_battery = True
                is_fed |= self._text(supply / "status") in ("Charging", "Full", "Not charging")
                level = _number(self._text(supply / "capacity"))
                levels += [] if level is None else [level / 100]
            elif kind in ("Mains", "USB", "Wireless"):
                is_fed |= self._text(supply / "online") == "1"
        return (is_fed or not has_battery), (min(levels) if levels else None)

    def _celsius(self) -> float | None:
        found = []
        for zone in (self._root / "sys/class/thermal").glob("thermal_zone*/temp"):
            value = _number(self._text(zone))
            if value is not None and _SANE_CELSIUS[0] < value / 1000 < _SANE_CELSIUS[1]:
                found.append(value / 1000)
        return max(found, default=None)

    def _busy(self, trainer_pid: int | None) -> float | None:
        words = (self._text(self._root / "proc/stat").splitlines() or [""])[0].split()[1:9]
        ticks = [_number(word) or 0.0 for word in words]
        if len(ticks) < 5:
            return None
        total, idle, own = sum(ticks), ticks[3] + ticks[4], self._ticks_of(trainer_pid)
        before, self._ticks = self._ticks, (total - idle - own, total)
        if before is None or total <= before[1]:
            return None
        # A trainer that came or went in between makes the difference meaningless: clamp it.
        return min(1.0, max(0.0, (self._ticks[0] - before[0]) / (total - before[1])))

    def _ticks_of(self, pid: int | None) -> float:
        if pid is None:
            return 0.0
        fields = self._text(self._root / f"proc/{pid}/stat").rpartition(")")[2].split()
        if len(fields) <= _CSTIME:
            return 0.0
        return sum(_number(fields[i]) or 0.0 for i in (_UTIME, _STIME, _CUTIME, _CSTIME))

    def _is_metered(self) -> bool | None:
        routes = [line.split() for line in self._text(self._root / "proc/net/route").splitlines()[1:]]
        names = {route[0] for route in routes if len(route) > 1 and route[1] == "00000000"}  # the default's
        if not names:
            return None
        return any(
            name == one or (one.endswith("*") and name.startswith(one[:-1])) for name in names for one in self._metered
        )

    def _free_disk(self) -> int | None:
        try:
            return shutil.disk_usage(self._folder).free
        except OSError:
            return None

    def _free_memory(self) -> int | None:
        for line in self._text(self._root / "proc/meminfo").splitlines():
            if line.startswith("MemAvailable:"):
                kilobytes = _number(line.split()[1])
                return None if kilobytes is None else int(kilobytes) * 1024
        return None

    @staticmethod
    def _text(path: Path) -> str:
        try:
            with path.open("rb") as file:
                return file.read(_MAX_BYTES).decode("ascii", "replace").strip()
        except OSError:
            return ""


def read_termux(run: Callable[[str], bytes] | None = None) -> dict[str, Any]:
    """Return what Termux:API knows; ``run`` gives a command's output."""
    run = run or _run
    battery, wifi = _json(run("termux-battery-status")), _json(run("termux-wifi-connectioninfo"))
    found: dict[str, Any] = {}
    if isinstance(battery.get("percentage"), (int, float)):
        found["battery_fraction"] = battery["percentage"] / 100
    if isinstance(battery.get("plugged"), str):
        found["on_mains"] = battery["plugged"] != "UNPLUGGED"
    if isinstance(battery.get("temperature"), (int, float)):
        found["celsius"] = float(battery["temperature"])
    if isinstance(wifi.get("supplicant_state"), str):
        found["is_metered"] = wifi["supplicant_state"] != "COMPLETED"  # without Wi-Fi it is the phone's own network
    return found


def read_file(path: Path, *, max_age_s: float, now_unix_s: float) -> dict[str, Any]:
    """Return the readings in a JSON file; none of a file that is missing, strange or too old."""
    try:
        age_s = now_unix_s - path.stat().st_mtime
        values = _json(read_bytes(path, max_bytes=_MAX_BYTES))
    except (OSError, StorageError):
        return {}
    if age_s > max_age_s:
        return {}
    return {
        name: value
        for name, value in values.items()
        if type(value) in _KINDS.get(name, ()) and (not isinstance(value, float) or math.isfinite(value))
    }


def make_sensors(rules: RulesSettings, here: Path, folder: Path) -> Callable[[int | None], Readings]:
    """Return what reads all sensors that ``rules`` ask for; it takes the trainer's process id."""
    linux = LinuxSensors(folder, metered=rules.metered_interfaces)

    def read(trainer_pid: int | None) -> Readings:
        now_unix_s = time.time()
        now = time.localtime(now_unix_s)
        known = linux.read(trainer_pid)
        if rules.termux:
            known |= read_termux()
        if rules.readings is not None:
            known |= read_file(here / rules.readings, max_age_s=rules.readings_age_s, now_unix_s=now_unix_s)
        day = int((now_unix_s + now.tm_gmtoff) // 86_400)
        return Readings(day=max(0, day), minute=60 * now.tm_hour + now.tm_min, **known)

    return read


def _run(command: str) -> bytes:
    try:
        with subprocess.Popen([command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            try:
                out, _ = process.communicate(timeout=_TERMUX_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return b""
            return out[:_MAX_BYTES] if process.returncode == os.EX_OK else b""
    except OSError:
        return b""


def _json(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
