"""Plans as text: what would be run and written, without running or writing anything."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from deploy.flash.ext4_files import FileIn
from deploy.flash.image_plan import PROGRAMS, identity_steps, image_steps, master_steps
from deploy.flash.programs import DEBIAN_PACKAGES, require_programs
from deploy.flash.settings import DeviceSetup, Wifi
from deploy.flash.steps import FillBoot, Inject, Link, MakeExt4, MakeInitrd, Move, Put, Run
from deploy.flash.targets import TARGETS, target_named
from protocol.errors import ConfigError

WORK, OUT = Path("/work"), Path("/out/pi.img.xz")
PATHS = {name: f"/usr/bin/{name}" for name in PROGRAMS}
TOKEN = "edgefold1-secret"


def setup_of(**changes: Any) -> DeviceSetup:
    return DeviceSetup(**{"device": "kitchen-pi", "fleet": "home", "token": TOKEN, **changes})


def steps_of(target: str = "rpi", **changes: Any) -> tuple[Any, ...]:
    return image_steps(target_named(target), setup_of(**changes), work=WORK, out=OUT, programs=PATHS)


def puts(steps: tuple[Any, ...]) -> dict[str, Put]:
    return {step.path.relative_to(WORK).as_posix(): step for step in steps if isinstance(step, Put)}


def injected(steps: tuple[Any, ...], number: int) -> dict[str, FileIn]:
    (step,) = [one for one in steps if isinstance(one, Inject) and one.number == number]
    return {str(one.path): one for one in step.changes if isinstance(one, FileIn)}


def links(steps: tuple[Any, ...]) -> dict[str, str]:
    return {step.path.relative_to(WORK).as_posix(): step.to for step in steps if isinstance(step, Link)}


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_settings_give_the_same_steps(target: str) -> None:
    assert steps_of(target) == steps_of(target)


@pytest.mark.parametrize("target", TARGETS)
def test_no_secret_is_an_argument_of_a_program_nor_shown(target: str) -> None:
    wifi = Wifi(ssid="home", passphrase="correct horse", country="NL")
    steps = steps_of(target, wifi=wifi)
    assert not [word for step in steps if isinstance(step, Run) for word in step.argv if "secret" in word]
    assert "secret" not in repr(steps)
    assert "correct horse" not in repr(steps)
    files = [*puts(steps).values(), *injected(steps, 2).values(), *injected(steps, 3).values()]
    held = [one for one in files if b"secret" in one.data or b"correct" in one.data]
    assert [one.mode for one in held] == [0o600] * 2


def test_the_token_and_the_settings_go_to_the_data_partition_of_the_finished_image_alone() -> None:
    steps = steps_of()
    assert not [one for one in puts(steps).values() if b"secret" in one.data]
    assert not [one for one in injected(steps, 2).values() if b"secret" in one.data]
    files = injected(steps, 3)
    assert [name for name, one in files.items() if b"secret" in one.data] == ["/provision/token"]
    assert {(one.mode, one.user_id, one.group_id) for one in files.values()} == {(0o600, 990, 990)}
    settings = tomllib.loads(files["/edgefold/agent.toml"].data.decode())
    assert settings["device"] == {"fleet": "home", "id": "kitchen-pi", "key": "device.key", "bundles": []}


def test_a_master_is_of_no_device_and_two_identities_differ_in_nothing_else() -> None:
    target = target_named("rpi")
    master = master_steps(target, setup_of(), work=WORK, programs=PATHS)
    assert "secret" not in "".join(str(one.data) for one in puts(master).values())
    one, two = (identity_steps(setup_of(device=name), WORK / "x.img") for name in ("a", "b"))
    assert [step.number for step in one if isinstance(step, Inject)] == [2, 3]
    assert injected(one, 2)["/etc/hostname"].data == b"a\n"
    assert injected(two, 2)["/etc/hostname"].data == b"b\n"


def test_the_system_is_read_only_and_the_data_partition_may_grow() -> None:
    fstab = puts(steps_of())["root/etc/fstab"].data.decode().splitlines()
    options = {line.split()[1]: line.split()[3].split(",") for line in fstab}
    assert "ro" in options["/"]
    assert {"rw", "nosuid", "nodev", "noexec", "x-systemd.growfs"} <= set(options["/data"])


def test_a_device_that_does_not_come_up_tries_again_and_waits_for_no_keyboard() -> None:
    files = puts(steps_of())
    data = next(line for line in files["root/etc/fstab"].data.decode().splitlines() if " /data " in line)
    assert "x-systemd.device-timeout=10min" in data  # a slow card is no broken one
    emergency = files["root/etc/systemd/system/emergency.service.d/edgefold.conf"].data.decode().splitlines()
    assert emergency[1] == "ExecStart="  # the shell is gone
    assert emergency[2].endswith("systemctl --force reboot'")


def test_growing_the_data_partition_ends_when_udev_has_seen_it() -> None:
    script = puts(steps_of())["root/usr/lib/edgefold/grow"].data.decode()
    assert script.index("partx --update") < script.index("udevadm settle")  # else /data is unmounted under the agent


def test_the_agent_owns_its_folders_and_nothing_else() -> None:
    made = [step for step in steps_of() if isinstance(step, MakeExt4)]
    owners = {step.label: [(str(one.path), one.user_id) for one in step.owners] for step in made}
    assert owners == {"edgefold-system": [], "edgefold-data": [("edgefold", 990), ("provision", 990)]}


def test_nobody_may_log_in_without_a_key_and_no_server_is_installed() -> None:
    without, key = steps_of(), "ssh-ed25519 AAAA owner\n"
    assert "ssh.service" not in " ".join(links(without))
    assert not any("openssh" in word for step in without if isinstance(step, Run) for word in step.argv)
    with_key = steps_of(ssh_keys=key)
    config = puts(with_key)["root/etc/ssh/sshd_config"].data.decode()
    assert "PasswordAuthentication no" in config
    assert puts(with_key)["root/etc/edgefold/authorized_keys"].data.decode() == key
    assert any("openssh-server" in word for step in with_key if isinstance(step, Run) for word in step.argv)


def test_a_pi_has_a_watchdog_its_firmware_and_the_device_trees_of_its_boards() -> None:
    steps = steps_of()
    assert b"RuntimeWatchdogSec=14" in puts(steps)["root/etc/systemd/system.conf.d/edgefold.conf"].data
    assert b"upstream_kernel=1" in puts(steps)["boot/config.txt"].data
    (boot,) = [step for step in steps if isinstance(step, FillBoot)]
    assert any("raspi-firmware" in one.source for one in boot.files)
    (first,) = [step for step in steps if isinstance(step, MakeInitrd)]
    assert {"sdhci-iproc", "bcm2835", "mmc_block"} <= set(first.modules)
    assert "Pi 5" in target_named("rpi").not_for


def test_time_servers_and_the_clock_are_started() -> None:
    steps = steps_of(time_servers=("10.0.0.1", "10.0.0.2"))
    assert b"NTP=10.0.0.1 10.0.0.2" in puts(steps)["root/etc/systemd/timesyncd.conf.d/edgefold.conf"].data
    assert "root/etc/systemd/system/sysinit.target.wants/systemd-timesyncd.service" in links(steps)


def test_wifi_is_a_file_of_its_own_in_a_form_that_no_name_can_break() -> None:
    steps = steps_of(wifi=Wifi(ssid='a"b\\', passphrase='p"a ss#word', country="NL"))
    text = puts(steps)["root/etc/wpa_supplicant/wpa_supplicant-wlan0.conf"].data.decode()
    assert "ssid=6122625c\n" in text
    assert 'psk="p"a ss#word"\n' in text
    assert any("wpa_supplicant@wlan0" in name for name in links(steps))


def test_the_image_is_moved_into_place_last() -> None:
    *before, last = steps_of()
    assert last == Move(source=WORK / "joined/disk.img.xz", to=OUT)
    assert not any(isinstance(step, Move) for step in before)


def test_missing_programs_are_one_line_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "deploy.flash.programs.find_program", lambda name: None if name in {"mcopy", "depmod"} else name
    )
    with pytest.raises(ConfigError, match=r"depmod, mcopy: not here; run: apt install kmod mtools"):
        require_programs(PROGRAMS)
    assert set(PROGRAMS) <= set(DEBIAN_PACKAGES)


def test_an_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="expected rpi, qemu-virt"):
        target_named("toaster")
