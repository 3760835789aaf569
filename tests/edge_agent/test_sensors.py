"""Sensors of fake machines: a folder as Linux's root, Termux's commands, a file."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.sensors import LinuxSensors, make_sensors, read_file, read_termux
from edge_agent.rules_settings import RulesSettings

if TYPE_CHECKING:
    from pathlib import Path


def machine(root: Path, files: dict[str, str]) -> LinuxSensors:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return LinuxSensors(root, metered=("wwan*", "tether0"), root=root)


SUPPLY = "sys/class/power_supply"
ROUTES = "Iface\tDestination\tGateway\n{}\t00000000\t0101A8C0\neth9\t0001A8C0\t0\n"


def test_a_machine_without_a_battery_is_on_mains(tmp_path: Path) -> None:
    found = machine(tmp_path, {}).read(None)
    assert (found["on_mains"], found["battery_fraction"], found["celsius"]) == (True, None, None)
    assert (found["busy_fraction"], found["is_metered"], found["free_memory_bytes"]) == (None, None, None)
    assert found["free_disk_bytes"] > 0


@pytest.mark.parametrize(
    ("status", "online", "on_mains"),
    [("Discharging", "0", False), ("Charging", "0", True), ("Discharging", "1", True), ("Full", "0", True)],
)
def test_a_battery_is_read(tmp_path: Path, status: str, online: str, on_mains: bool) -> None:  # noqa: FBT001 - a table
    files = {"BAT0/type": "Battery\n", "BAT0/capacity": "42\n", "BAT0/status": status}
    files |= {"AC/type": "Mains", "AC/online": online, "mouse/type": "Battery", "mouse/scope": "Device"}
    found = machine(tmp_path, {f"{SUPPLY}/{name}": text for name, text in files.items()}).read(None)
    assert (found["on_mains"], found["battery_fraction"]) == (on_mains, 0.42)


def test_the_hottest_sane_zone_counts(tmp_path: Path) -> None:
    zones = {"0": "48312", "1": "61250", "2": "-273000", "3": "2147483647", "4": "nonsense"}
    files = {f"sys/class/thermal/thermal_zone{name}/temp": text for name, text in zones.items()}
    assert machine(tmp_path, files).read(None)["celsius"] == 61.25


def test_the_trainers_own_work_is_not_busy(tmp_path: Path) -> None:
    fields = "0 (a b) c) S 1 1 1 0 -1 0 0 0 0 0 {} 0 0 0"
    sensors = machine(
        tmp_path, {"proc/stat": "cpu 100 0 100 800 0 0 0 0 0 0\ncpu0 1\n", "proc/7/stat": fields.format(0)}
    )
    assert sensors.read(7)["busy_fraction"] is None  # the first look
    machine(tmp_path, {"proc/stat": "cpu 160 0 120 920 0 0 0 0 0 0\n", "proc/7/stat": fields.format(40)})
    assert sensors.read(7)["busy_fraction"] == pytest.approx(40 / 200)
    assert sensors.read(7)["busy_fraction"] is None  # no time has passed


@pytest.mark.parametrize(
    ("name", "metered"), [("eth0", False), ("wwan0", True), ("tether0", True), ("tether01", False)]
)
def test_the_default_route_says_whether_the_network_is_metered(tmp_path: Path, name: str, metered: bool) -> None:  # noqa: FBT001 - a table
    found = machine(tmp_path, {"proc/net/route": ROUTES.format(name), "proc/meminfo": "MemAvailable:  2048 kB\n"})
    assert found.read(None)["is_metered"] is metered
    assert found.read(None)["free_memory_bytes"] == 2 << 20


def test_a_phone_is_asked_by_its_own_commands() -> None:
    said = {
        "termux-battery-status": {"percentage": 81, "plugged": "UNPLUGGED", "temperature": 31.5},
        "termux-wifi-connectioninfo": {"supplicant_state": "COMPLETED"},
    }
    found = read_termux(lambda command: json.dumps(said[command]).encode())
    assert found == {"battery_fraction": 0.81, "on_mains": False, "celsius": 31.5, "is_metered": False}
    assert read_termux(lambda _: b"nothing") == read_termux() == {}


def test_a_file_counts_before_the_sensors_while_it_is_young(tmp_path: Path) -> None:
    path = tmp_path / "readings.json"
    path.write_text(json.dumps({"celsius": 99.5, "on_mains": 1, "is_metered": True, "else": 3, "busy_fraction": "x"}))
    now_unix_s = path.stat().st_mtime
    assert read_file(path, max_age_s=60, now_unix_s=now_unix_s) == {"celsius": 99.5, "is_metered": True}
    assert read_file(path, max_age_s=60, now_unix_s=now_unix_s + 61) == {}
    read = make_sensors(RulesSettings(readings="readings.json"), tmp_path, tmp_path)
    assert read(os.getpid()).celsius == 99.5
    for strange in ("[1]", "NaN", '{"celsius": NaN}', "{"):
        path.write_text(strange)
        assert read_file(path, max_age_s=60, now_unix_s=now_unix_s) == {}
    assert read_file(tmp_path / "none", max_age_s=60, now_unix_s=0) == {}
