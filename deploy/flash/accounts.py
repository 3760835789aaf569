"""The users of an image: fixed numbers, locked passwords. Debian's own scripts would choose numbers on the device.

Nobody can log in with a password: root's is ``*``, which no password hashes to and which sshd takes for a key's login.
"""

from __future__ import annotations

from typing import Final

__all__ = ["AGENT_ID", "group_text", "passwd_text", "shadow_text"]

AGENT_ID: Final = 990
_USERS: Final = {  # name: (number, home)
    "systemd-network": (998, "/run/systemd"),
    "systemd-resolve": (997, "/run/systemd"),
    "systemd-timesync": (996, "/run/systemd"),
    "messagebus": (995, "/nonexistent"),
    "sshd": (994, "/run/sshd"),
    "edgefold": (AGENT_ID, "/data/edgefold"),
}
# Named by udev's rules and by the journal.
_GROUPS: Final = {"systemd-journal": 999, "input": 989, "kvm": 988, "render": 987, "sgx": 986, "crontab": 985}
_NOLOGIN: Final = "/usr/sbin/nologin"


def passwd_text(master: str) -> str:
    """Return /etc/passwd, from the one that Debian's base-passwd brings."""
    lines = [f"{name}:x:{number}:{number}::{home}:{_NOLOGIN}" for name, (number, home) in _USERS.items()]
    kept = [_shadowed(line) for line in master.splitlines() if line]
    return "\n".join([*kept, *lines]) + "\n"


def group_text(master: str) -> str:
    """Return /etc/group, from the one that Debian's base-passwd brings."""
    numbers = {name: number for name, (number, _) in _USERS.items()} | _GROUPS
    lines = [f"{name}:x:{number}:" for name, number in numbers.items()]
    kept = [_shadowed(line) for line in master.splitlines() if line]
    return "\n".join([*kept, *lines]) + "\n"


def shadow_text(passwd: str) -> str:
    """Return /etc/shadow for everybody in ``passwd``: no password fits."""
    return "".join(f"{line.split(':')[0]}:*:19000:0:99999:7:::\n" for line in passwd.splitlines())


def _shadowed(line: str) -> str:
    name, _, rest = line.split(":", 2)
    if name == "root" and rest.endswith("/bin/bash"):
        rest = rest.removesuffix("/bin/bash") + "/bin/sh"  # the image has no bash
    return f"{name}:x:{rest}"
