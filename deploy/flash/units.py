"""systemd's units of a device, as text: the agent, its enrolment at the first boot, growing the data partition.

The agent needs the network, its own folder and processors, and nothing else of the machine; ``systemd-analyze
security`` reads the same lines. Laws: a trainer that the kernel ends for want of memory does not end the agent
(``OOMPolicy``); the agent is started again for ever; no secret stands in a unit, since everybody may read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["AgentPlace", "agent_unit", "enrol_unit", "grow_unit", "host_key_unit"]

_HARDENING: Final = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={protect_home}
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
PrivateTmp=yes
PrivateDevices=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPlace:
    """Where a device keeps the agent.

    Attributes:
        program: the ``edgefold`` command.
        folder: the agent's own folder, with agent.toml; all that it may write.
        user: whom it runs as.
        token: where the token of the first boot lies.
        protect_home: systemd's ``ProtectHome``; ``no`` where the folder is below a home.
    """

    program: str = "/opt/edgefold/bin/edgefold"
    folder: str = "/data/edgefold"
    user: str = "edgefold"
    token: str = "/data/provision/token"  # noqa: S105 - a path
    protect_home: str = "yes"


def agent_unit(place: AgentPlace) -> str:
    """Return ``edgefold-agent.service``."""
    return (
        "[Unit]\n"
        "Description=edgefold: this device learns, and its data stays here\n"
        "After=network.target time-sync.target edgefold-enrol.service\n"
        f"RequiresMountsFor={place.folder}\n"
        "StartLimitIntervalSec=0\n"
        "\n[Service]\n"
        f"ExecStart={place.program} agent run --config {place.folder}/agent.toml\n"
        f"User={place.user}\nGroup={place.user}\n"
        f"WorkingDirectory={place.folder}\nReadWritePaths={place.folder}\n"
        "Restart=always\nRestartSec=10\nTimeoutStopSec=30\nKillMode=mixed\n"
        "OOMPolicy=continue\nTasksMax=256\nCPUWeight=20\nIOWeight=20\n"
        f"{_HARDENING.format(protect_home=place.protect_home)}"
        "\n[Install]\nWantedBy=multi-user.target\n"
    )


def enrol_unit(place: AgentPlace) -> str:
    """Return ``edgefold-enrol.service``: exchanges the token for a certificate, then erases it."""
    writable = " ".join((place.folder, place.token.rpartition("/")[0]))
    return (
        "[Unit]\n"
        "Description=edgefold: enrolment at the first boot\n"
        "After=network-online.target time-sync.target\nWants=network-online.target\n"
        f"RequiresMountsFor={place.folder}\nConditionPathExists={place.token}\n"
        "StartLimitIntervalSec=0\n"
        "\n[Service]\nType=oneshot\n"
        f"ExecStart={place.program} agent enrol --config {place.folder}/agent.toml --token-file {place.token} --erase "
        "--wait 86400\n"
        f"User={place.user}\nGroup={place.user}\n"
        f"WorkingDirectory={place.folder}\nReadWritePaths={writable}\n"
        "Restart=on-failure\nRestartSec=15\nTimeoutStartSec=infinity\n"
        f"{_HARDENING.format(protect_home=place.protect_home)}"
        "\n[Install]\nWantedBy=multi-user.target\n"
    )


def grow_unit(label: str) -> str:
    """Return ``edgefold-grow.service``: the last partition takes the rest of the card; repeating it changes nothing."""
    device = f"dev-disk-by\\x2dlabel-{label.replace('-', chr(92) + 'x2d')}"
    return (
        "[Unit]\n"
        "Description=edgefold: let the data partition fill the card\n"
        "DefaultDependencies=no\n"
        f"After={device}.device\nRequires={device}.device\n"
        f"Before=systemd-fsck@{device}.service data.mount local-fs.target\n"
        "\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        f"ExecStart=/usr/lib/edgefold/grow {label}\n"
        "\n[Install]\nWantedBy=local-fs.target\n"
    )


def host_key_unit() -> str:
    """Return ``edgefold-ssh-key.service``: the device makes its own host key, once."""
    return (
        "[Unit]\n"
        "Description=edgefold: make this device's SSH host key\n"
        "RequiresMountsFor=/data\nBefore=ssh.service\nConditionPathExists=!/data/ssh/ssh_host_ed25519_key\n"
        "\n[Service]\nType=oneshot\nUMask=0077\n"
        "ExecStart=/usr/bin/mkdir -p /data/ssh\n"
        'ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /data/ssh/ssh_host_ed25519_key\n'
        "\n[Install]\nWantedBy=multi-user.target\n"
    )
