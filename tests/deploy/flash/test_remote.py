"""What is said to a machine reached by ssh, as text; the shell reads every script."""

from __future__ import annotations

import subprocess

import pytest

from deploy.flash import remote
from deploy.flash.ssh_install import Address, parse_address
from protocol.errors import ConfigError

JETSON = """\
machine=aarch64
user=1000
home=/home/me
system=Ubuntu 22.04.4 LTS
model=NVIDIA Jetson Orin Nano
python=3.12 /usr/bin/python3.12
python=3.10 /usr/bin/python3
systemd=yes
sudo=yes
accelerator=nvidia
memory_kb=7800000
free_kb=9000000
"""


def test_a_jetson_is_known_and_gets_a_system_service() -> None:
    probe = remote.parse_probe(JETSON)
    assert (probe.platform, probe.python, probe.interpreter) == ("linux-aarch64", "3.12", "/usr/bin/python3.12")
    assert probe.accelerators == ("nvidia",)
    assert remote.place_of(probe) == remote.Place(kind="system", root="/opt/edgefold", sudo="sudo -n ")


def test_without_systemd_or_rights_it_goes_below_the_home() -> None:
    for line in ("systemd=yes\n", "sudo=yes\n"):
        place = remote.place_of(remote.parse_probe(JETSON.replace(line, "")))
        assert place == remote.Place(kind="user", root="/home/me/.local/share/edgefold")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("aarch64", "armv7l", "a machine of kind armv7l"),
        ("python=3.12 /usr/bin/python3.12\n", "", "no Python from 3.11"),
        ("free_kb=9000000", "free_kb=1000", "1000 kB of disk"),
        ("memory_kb", "libc=musl libc (aarch64)\nmemory_kb", "musl"),
    ],
)
def test_a_machine_that_cannot_have_an_agent_is_told_why(old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        remote.parse_probe(JETSON.replace(old, new))


def test_what_a_machine_says_of_itself_is_not_believed_to_be_shell() -> None:
    probe = remote.parse_probe(JETSON.replace("/home/me", "/home/$(reboot)").replace("systemd=yes\n", ""))
    script = remote.stop_script(remote.place_of(probe))
    assert subprocess.run(["/bin/sh", "-n", "-c", script], check=False).returncode == 0
    with pytest.raises(ConfigError, match="absolute path"):
        remote.place_of(probe, "/opt/$(reboot)")


@pytest.mark.parametrize("kind", ["system", "user"])
def test_every_script_parses_and_no_secret_is_in_one(kind: str) -> None:
    place = remote.Place(kind=kind, root="/opt/edgefold")  # type: ignore[arg-type]
    scripts = [
        remote.PROBE,
        remote.unpack_script(place, "abc"),
        remote.activate_script(place, "abc", 'x = "it\'s"\n'),
        remote.start_script(place),
        remote.stop_script(place),
        remote.roll_back_script(place),
        remote.agent_command(place, "agent", "doctor"),
    ]
    for script in scripts:
        assert subprocess.run(["/bin/sh", "-n"], input=script.encode(), check=False).returncode == 0
        assert "edgefold1-" not in script
        assert "{ umask" not in script  # it would hold for the unit too, which everybody may read


def test_addresses() -> None:
    assert parse_address("ssh://me@jetson.local:2222") == Address(host="jetson.local", user="me", port=2222)
    for text in ("ssh://", "ssh://-oProxyCommand=x", "ssh://me:pw@host", "http://host", "ssh://h/x", "ssh://h:99999"):
        with pytest.raises(ConfigError, match="expected ssh://USER@HOST"):
            parse_address(text)
