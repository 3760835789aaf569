"""A Debian package of the agent with its wheels, for machines that are looked after by apt. Pure: steps, nothing done.

The package is for one architecture and one Python, whose version its ``Depends`` names; the agent lies in
/opt/edgefold, what it writes in /var/lib/edgefold. Installing starts nothing: first comes agent.toml and enrolment.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from deploy.flash.steps import Compile, CopyAgent, Move, Prune, Put, Run
from deploy.flash.units import AgentPlace, agent_unit, enrol_unit
from deploy.flash.wheels import PRUNED, WheelPlatform, site_command

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploy.flash.steps import Step

__all__ = ["ARCHITECTURES", "PROGRAMS", "deb_steps"]

ARCHITECTURES: Final = {"arm64": "aarch64", "amd64": "x86_64"}
PROGRAMS: Final = ("dpkg-deb",)
_PLACE: Final = AgentPlace(folder="/var/lib/edgefold", token="/var/lib/edgefold/token")  # noqa: S106 - a path
_PROGRAM: Final = """\
#!/bin/sh
PYTHONPATH=/opt/edgefold/site PYTHONSAFEPATH=1 exec /usr/bin/python3 -P -m edgefold "$@"
"""
_POSTINST: Final = """\
#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
getent passwd edgefold >/dev/null || useradd --system --home-dir /var/lib/edgefold --shell /usr/sbin/nologin edgefold
install -d -m 0700 -o edgefold -g edgefold /var/lib/edgefold
[ ! -d /run/systemd/system ] || systemctl daemon-reload
[ ! -d /run/systemd/system ] || systemctl try-restart edgefold-agent.service
"""
_PRERM: Final = """\
#!/bin/sh
set -e
[ "$1" = remove ] && [ -d /run/systemd/system ] && systemctl --no-reload disable --now edgefold-agent.service
exit 0
"""
# The device's keys and state go with a purge alone, as Debian's rules have it.
_POSTRM: Final = '#!/bin/sh\nset -e\n[ "$1" != purge ] || rm -rf /var/lib/edgefold\n'


def deb_steps(
    architecture: str, python: str, *, version: str, work: Path, out: Path, programs: Mapping[str, str]
) -> tuple[Step, ...]:
    """Return the steps that make the package ``out`` in the empty folder ``work``.

    Args:
        architecture: Debian's name, a key of ``ARCHITECTURES``.
        python: of the machines that it is for, such as 3.11 for Debian 12.
        version: edgefold's.
        work: where to build.
        out: the package.
        programs: paths of ``PROGRAMS``.
    """
    root = work / "root"
    site, control = root / "opt/edgefold/site", root / "DEBIAN"
    platform = WheelPlatform(machine=ARCHITECTURES[architecture], python=python)
    scripts = {"postinst": _POSTINST, "prerm": _PRERM, "postrm": _POSTRM}
    package = work / "agent.deb"
    return (
        Run(what="fetch wheels", argv=site_command(sys.executable, site, platform)),
        CopyAgent(into=site),
        Prune(root=site, patterns=PRUNED),
        Compile(root=site, python=python),
        Put(path=root / "opt/edgefold/bin/edgefold", data=_PROGRAM.encode(), mode=0o755),
        Put(path=root / "usr/bin/edgefold", data=_PROGRAM.encode(), mode=0o755),
        Put(path=root / "usr/lib/systemd/system/edgefold-agent.service", data=agent_unit(_PLACE).encode()),
        Put(path=root / "usr/lib/systemd/system/edgefold-enrol.service", data=enrol_unit(_PLACE).encode()),
        Put(path=control / "control", data=_control(architecture, python, version).encode()),
        *(Put(path=control / name, data=text.encode(), mode=0o755) for name, text in scripts.items()),
        Run(what="pack", argv=(programs["dpkg-deb"], "--build", "--root-owner-group", str(root), str(package))),
        Move(source=package, to=out),
    )


def _control(architecture: str, python: str, version: str) -> str:
    major, minor = python.split(".")
    after = f"{major}.{int(minor) + 1}"
    return (
        f"Package: edgefold-agent\nVersion: {version}\nArchitecture: {architecture}\n"
        "Maintainer: edgefold maintainers <maintainers@edgefold.example>\n"
        f"Depends: python3 (>= {python}), python3 (<< {after}), libgomp1, libstdc++6, passwd\n"
        "Section: net\nPriority: optional\n"
        "Description: adapts a foundation model on this machine; its data never leaves it\n"
        " The agent waits for rounds, trains an adapter on local examples and sends sealed updates.\n"
        " Write /var/lib/edgefold/agent.toml, run: edgefold agent enrol, then enable edgefold-agent.service.\n"
    )
