"""The files that make unpacked packages a system: what Debian's maintainer scripts would have done, and our own.

The system partition is read-only: the device writes to ``/data`` alone, and ``/var`` and ``/tmp`` are in memory. So a
power cut finds nothing half written but the agent's folder, whose writes are durable (``host.durable``).
Pure: returns steps, writes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deploy.flash.settings import wpa_text
from deploy.flash.steps import Link, Put
from deploy.flash.units import AgentPlace, agent_unit, enrol_unit, grow_unit, host_key_unit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.flash.settings import DeviceSetup
    from deploy.flash.target import Target

__all__ = ["DATA_LABEL", "GROW_SCRIPT", "SYSTEM_LABEL", "first_stage", "hosts_text", "system_files"]

SYSTEM_LABEL: Final = "edgefold-system"
DATA_LABEL: Final = "edgefold-data"
_UNITS: Final = "usr/lib/systemd/system"
_ETC: Final = "etc/systemd/system"

_FSTAB: Final = f"""\
LABEL={SYSTEM_LABEL} / ext4 ro,noatime 0 0
LABEL={DATA_LABEL} /data ext4 rw,noatime,nosuid,nodev,noexec,x-systemd.growfs,x-systemd.device-timeout=10min 0 2
tmpfs /var tmpfs mode=0755,nosuid,nodev,size=25% 0 0
tmpfs /tmp tmpfs mode=1777,nosuid,nodev,size=25% 0 0
"""
_NETWORK: Final = """\
[Match]
Name=en* eth* wl*
[Network]
DHCP=yes
IPv6PrivacyExtensions=yes
[DHCPv4]
UseDomains=no
"""
_NSSWITCH: Final = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nservices: files\n"
_JOURNAL: Final = "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\nForwardToSyslog=no\n"
# systemd's shell for emergencies waits for a keyboard; nobody sits there, so the device tries again.
_EMERGENCY: Final = (
    "[Service]\nExecStart=\n"
    "ExecStart=-/bin/sh -c 'echo edgefold: the system did not come up, it starts again in a minute > /dev/console; "
    "sleep 60; systemctl --force reboot'\n"
)
_SSHD: Final = """\
HostKey /data/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/edgefold/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
X11Forwarding no
"""
_PROGRAM: Final = """\
#!/bin/sh
# -P: what lies in the present folder is not imported.
PYTHONPATH=/opt/edgefold/site PYTHONSAFEPATH=1 exec /usr/bin/python3 -P -m edgefold "$@"
"""
GROW_SCRIPT: Final = """\
#!/bin/sh
# Lets the partition labelled $1, the last of its disk, take what is free behind it. Once grown there is nothing to do.
set -eu
name=$(basename "$(readlink -f "/dev/disk/by-label/$1")")
number=$(cat "/sys/class/block/$name/partition")
disk=$(basename "$(dirname "$(readlink -f "/sys/class/block/$name")")")
end=$(($(cat "/sys/class/block/$name/start") + $(cat "/sys/class/block/$name/size")))
[ $(($(cat "/sys/class/block/$disk/size") - end)) -gt 8192 ] || exit 0
echo ", +" | sfdisk --quiet --no-reread --no-tell-kernel --force -N "$number" "/dev/$disk"
partx --update --nr "$number" "/dev/$disk"
# udev looks at the whole disk again; the check and the mount that come next must not see the partition come and go.
udevadm settle --timeout=120 || true
"""
_STARTED: Final = ("systemd-networkd.service", "systemd-resolved.service")
# Debian's first-boot work, which a read-only system neither needs nor can do.
_MASKED: Final = (
    "systemd-sysusers.service",
    "systemd-firstboot.service",
    "systemd-machine-id-commit.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-update-done.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "ldconfig.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@.service",
    "console-getty.service",
)


def hosts_text(device: str) -> str:
    """Return /etc/hosts of a device."""
    return f"127.0.0.1 localhost\n127.0.1.1 {device}\n::1 localhost ip6-localhost\n"


def first_stage(label: str = SYSTEM_LABEL) -> str:
    """Return the script of the initrd: load modules, wait for the system partition called ``label``, go there."""
    return (
        "#!/bin/busybox sh\n"
        "b=/bin/busybox\n"
        "$b mount -t devtmpfs dev /dev; $b mount -t proc proc /proc; $b mount -t sysfs sys /sys\n"
        "for module in $($b cat /modules.list); do $b insmod /modules/$module; done\n"
        "tries=0\n"
        f"until root=$($b findfs LABEL={label} 2>/dev/null); do\n"
        "  tries=$((tries + 1))\n"
        f'  [ $tries -le 300 ] || {{ echo "edgefold: no partition {label}"; $b sleep 10; $b reboot -f; }}\n'
        "  $b usleep 100000\n"
        "done\n"
        "$b mount -t ext4 -o ro,noatime $root /root || { $b sleep 10; $b reboot -f; }\n"
        "for one in dev proc sys; do $b mount -o move /$one /root/$one; done\n"
        "exec $b switch_root /root /usr/lib/systemd/systemd\n"
    )


def system_files(root: Path, target: Target, setup: DeviceSetup) -> tuple[Put | Link, ...]:
    """Return the files and links to put into the unpacked system at ``root``."""
    files = [*_texts(target, setup), *_programs(), *_ssh(setup)]
    if setup.wifi is not None:
        files.append(("etc/wpa_supplicant/wpa_supplicant-wlan0.conf", wpa_text(setup.wifi), 0o600))
    puts = [Put(path=root / path, data=text.encode(), mode=mode) for path, text, mode in files]
    return (*puts, *(Link(path=root / path, to=to) for path, to in _links(target, setup)))


def _texts(target: Target, setup: DeviceSetup) -> Iterator[tuple[str, str, int]]:
    yield "etc/fstab", _FSTAB, 0o644
    yield "etc/hostname", f"{setup.device}\n", 0o644
    yield "etc/hosts", hosts_text(setup.device), 0o644
    yield "etc/nsswitch.conf", _NSSWITCH, 0o644
    yield "etc/machine-id", "", 0o444  # empty: systemd makes one for each boot and keeps it in memory
    yield "etc/.updated", "", 0o644
    yield "usr/lib/clock-epoch", "", 0o644  # no boot is before this file: systemd sets the clock to its time
    yield "etc/systemd/network/20-edgefold.network", _NETWORK, 0o644
    console = "ForwardToConsole=yes\nMaxLevelConsole=info\n" if target.journal_to_console else ""
    yield "etc/systemd/journald.conf.d/edgefold.conf", _JOURNAL + console, 0o644
    yield "etc/systemd/system/emergency.service.d/edgefold.conf", _EMERGENCY, 0o644
    if target.watchdog_s is not None:
        text = f"[Manager]\nRuntimeWatchdogSec={target.watchdog_s}\nRebootWatchdogSec=2min\n"
        yield "etc/systemd/system.conf.d/edgefold.conf", text, 0o644
    if setup.time_servers:
        text = f"[Time]\nNTP={' '.join(setup.time_servers)}\n"
        yield "etc/systemd/timesyncd.conf.d/edgefold.conf", text, 0o644
    yield f"{_UNITS}/edgefold-agent.service", agent_unit(AgentPlace()), 0o644
    yield f"{_UNITS}/edgefold-enrol.service", enrol_unit(AgentPlace()), 0o644
    yield f"{_UNITS}/edgefold-grow.service", grow_unit(DATA_LABEL), 0o644


def _programs() -> Iterator[tuple[str, str, int]]:
    yield "opt/edgefold/bin/edgefold", _PROGRAM, 0o755
    yield "usr/lib/edgefold/grow", GROW_SCRIPT, 0o755


def _ssh(setup: DeviceSetup) -> Iterator[tuple[str, str, int]]:
    if setup.ssh_keys:
        yield "etc/edgefold/authorized_keys", setup.ssh_keys, 0o600
        yield "etc/ssh/sshd_config", _SSHD, 0o644
        yield f"{_UNITS}/edgefold-ssh-key.service", host_key_unit(), 0o644


def _links(target: Target, setup: DeviceSetup) -> Iterator[tuple[str, str]]:
    yield "usr/bin/edgefold", "../../opt/edgefold/bin/edgefold"
    yield "usr/bin/sh", "dash"
    yield "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"
    yield "etc/mtab", "../proc/self/mounts"
    yield f"{_ETC}/default.target", f"/{_UNITS}/multi-user.target"
    for unit in _MASKED:
        yield f"{_ETC}/{unit}", "/dev/null"
    yield f"{_ETC}/sysinit.target.wants/systemd-timesyncd.service", f"/{_UNITS}/systemd-timesyncd.service"
    yield f"{_ETC}/local-fs.target.wants/edgefold-grow.service", f"/{_UNITS}/edgefold-grow.service"
    yield f"{_ETC}/sockets.target.wants/systemd-networkd.socket", f"/{_UNITS}/systemd-networkd.socket"
    units = [*_STARTED, "edgefold-agent.service", "edgefold-enrol.service"]
    if setup.ssh_keys:
        units += ["ssh.service", "edgefold-ssh-key.service"]
    for unit in units:
        yield f"{_ETC}/multi-user.target.wants/{unit}", f"/{_UNITS}/{unit}"
    if setup.wifi is not None and target.has_wifi:
        name = "wpa_supplicant@wlan0.service"
        yield f"{_ETC}/multi-user.target.wants/{name}", f"/{_UNITS}/wpa_supplicant@.service"
