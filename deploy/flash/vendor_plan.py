"""What is put into a vendor's system, and what into the copy of one device. Pure: text and values, nothing is read.

    /opt/edgefold/releases/NAME, current    the agent, as an installation by ssh leaves it
    /opt/edgefold/state                     a link to /var/lib/edgefold, so that a later one by ssh finds the state
    /var/lib/edgefold/                      agent.toml, token, keys, state: the user edgefold's, nobody else's
    /etc/systemd/system/                    both units, enabled
    /etc/passwd, group, shadow, gshadow     the user edgefold, without a password
    /etc/hostname, hosts                    the device's name

Everything else of the vendor's stays as it is: users, network, updates, first-boot dialogue.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from deploy.flash.ext4_files import FileIn, FolderIn, LinkIn, TreeIn
from deploy.flash.settings import agent_settings
from deploy.flash.units import AgentPlace, agent_unit, enrol_unit
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.flash.base_image import BaseSystem
    from deploy.flash.ext4_files import Change
    from deploy.flash.settings import DeviceSetup

__all__ = ["agent_id", "identity_changes", "system_changes"]

_ROOT: Final = PurePosixPath("/opt/edgefold")
_STATE: Final = PurePosixPath("/var/lib/edgefold")
_UNITS: Final = PurePosixPath("/etc/systemd/system")
_ETC: Final = PurePosixPath("/etc")
_USER: Final = "edgefold"
_PLACE: Final = AgentPlace(
    program=f"{_ROOT}/current/bin/edgefold",
    folder=str(_STATE),
    token=f"{_STATE}/token",
)
# login.defs of Debian: system users have 100 to 999; systemd counts down from 999.
_SYSTEM_IDS: Final = range(990, 100, -1)
# passwd, group, shadow, gshadow: as useradd --system writes them; "!" and "*" fit no password.
_ACCOUNT: Final = {
    "passwd": "{user}:x:{number}:{number}::{home}:/usr/sbin/nologin\n",
    "group": "{user}:x:{number}:\n",
    "shadow": "{user}:!:19000::::::\n",
    "gshadow": "{user}:!::\n",
}


def agent_id(system: BaseSystem) -> int:
    """Return a number that neither a user nor a group of the system has.

    Raises:
        ConfigError: the system has no users, or has edgefold already (the image's fault).
    """
    used = set()
    for name in ("passwd", "group"):
        for line in system.texts.get(_ETC / name, "").splitlines():
            fields = line.split(":")
            if fields[0] == _USER:
                raise ConfigError("the image has edgefold already; take the vendor's own")
            if len(fields) > 2 and fields[2].isdecimal():
                used.add(int(fields[2]))
    if _ETC / "passwd" not in system.texts or 0 not in used:
        raise ConfigError("no root in the image's /etc/passwd; it is no system that was set up")
    return next(number for number in _SYSTEM_IDS if number not in used)


def system_changes(system: BaseSystem, setup: DeviceSetup, *, release: str, tree: Path) -> tuple[Change, ...]:
    """Return what every device of a batch gets.

    Args:
        system: what is in the image.
        setup: bundles and examples.
        release: the name of the agent's release.
        tree: its unpacked folder.
    """
    number = agent_id(system)
    own = {"user_id": number, "group_id": number}
    at = f"{_UNITS}/edgefold-{{}}.service"
    units = {"agent": agent_unit(_PLACE), "enrol": enrol_unit(_PLACE)}
    brought: list[Change] = [
        TreeIn(source=one.resolve(), path=_STATE / one.resolve().name, is_private=True, **own) for one in setup.bundles
    ]
    if setup.examples is None:
        brought.append(FileIn(path=_STATE / "examples.jsonl", data=b"", mode=0o600, **own))
    else:
        name = f"examples{setup.examples.suffix}"
        brought.append(TreeIn(source=setup.examples.resolve(), path=_STATE / name, is_private=True, **own))
    return (
        *_accounts(system, number),
        FolderIn(path=_ROOT),
        FolderIn(path=_ROOT / "releases"),
        TreeIn(source=tree, path=_ROOT / "releases" / release),
        LinkIn(path=_ROOT / "current", to=f"releases/{release}"),
        LinkIn(path=_ROOT / "state", to=str(_STATE)),
        FolderIn(path=_STATE, mode=0o700, **own),
        *brought,
        *(FileIn(path=PurePosixPath(at.format(name)), data=text.encode()) for name, text in units.items()),
        *(
            LinkIn(path=_UNITS / f"multi-user.target.wants/edgefold-{name}.service", to=at.format(name))
            for name in units
        ),
    )


def identity_changes(system: BaseSystem, setup: DeviceSetup) -> tuple[Change, ...]:
    """Return what one device gets: its name, its settings and its token."""
    number = agent_id(system)
    own = (("agent.toml", agent_settings(setup)), ("token", f"{setup.token}\n"))
    hosts = system.texts.get(_ETC / "hosts", "127.0.0.1 localhost\n").splitlines()
    kept = [line for line in hosts if line.split()[:1] != ["127.0.1.1"]]
    return (
        *(
            FileIn(path=_STATE / name, data=text.encode(), mode=0o600, user_id=number, group_id=number)
            for name, text in own
        ),
        FileIn(path=_ETC / "hostname", data=f"{setup.device}\n".encode()),
        FileIn(path=_ETC / "hosts", data="\n".join([*kept, f"127.0.1.1 {setup.device}", ""]).encode()),
    )


def _accounts(system: BaseSystem, number: int) -> tuple[FileIn, ...]:
    made = []
    for name, line in _ACCOUNT.items():
        path = _ETC / name
        if path in system.texts:
            before, inode = system.texts[path], system.inodes[path]
            text = (before if before.endswith("\n") else before + "\n") + line.format(
                user=_USER, number=number, home=_STATE
            )
            made.append(
                FileIn(path=path, data=text.encode(), mode=inode.mode, user_id=inode.user_id, group_id=inode.group_id)
            )
    return tuple(made)
