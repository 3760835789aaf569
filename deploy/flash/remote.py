"""What is said to a machine reached by ssh, as shell scripts: find out, install, switch back. Pure text.

The scripts are POSIX sh and need nothing but tar and a Python from 3.11 to 3.13. Nothing that they are told is
pasted into them unquoted, and no secret is in them: files with secrets come on standard input.

    ROOT/releases/NAME/    what ``wheelhouse.make_release`` made
    ROOT/current           a link to one of them; switching is one rename
    ROOT/previous          the one before, to switch back to
    ROOT/state/            agent.toml, keys, state: never touched by an installation after the first
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Final, Literal

from deploy.flash.units import AgentPlace, agent_unit
from protocol.errors import ConfigError

__all__ = [
    "PROBE",
    "Place",
    "Probe",
    "activate_script",
    "agent_command",
    "parse_probe",
    "place_of",
    "program_text",
    "roll_back_script",
    "start_script",
    "stop_script",
    "unpack_script",
]

PROBE: Final = """\
set -u
say() { printf '%s=%s\\n' "$1" "$2"; }
say machine "$(uname -m)"
say user "$(id -u)"
say home "$HOME"
say system "$(. /etc/os-release 2>/dev/null && printf '%s' "$PRETTY_NAME")"
say model "$(tr -d '\\0' 2>/dev/null < /proc/device-tree/model)"
for one in python3.13 python3.12 python3.11 python3; do
  path=$(command -v $one) || continue
  say python "$("$path" -c 'import sys; print("%d.%d %s" % (*sys.version_info[:2], sys.executable))' 2>/dev/null)"
done
[ -d /run/systemd/system ] && say systemd yes
[ "$(id -u)" = 0 ] || { sudo -n true 2>/dev/null && say sudo yes; }
[ -e /dev/nvidia0 ] || [ -e /dev/nvhost-gpu ] && say accelerator nvidia
[ -e /dev/apex_0 ] && say accelerator edge-tpu
[ -n "${TERMUX_VERSION:-}" ] && say phone termux
say memory_kb "$(sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo)"
say free_kb "$(df -Pk "$HOME" | sed -n '2s/  */ /gp' | cut -d' ' -f4)"
say libc "$(ldd --version 2>&1 | sed -n 1p)"
exit 0
"""
_MACHINES: Final = {"aarch64": "linux-aarch64", "arm64": "linux-aarch64", "x86_64": "linux-x86_64"}
_PYTHONS: Final = ("3.11", "3.12", "3.13")
_NEEDED_KB: Final = 400_000  # two releases and some room


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a machine is."""

    platform: str
    python: str  # such as 3.11
    interpreter: str  # its path
    home: str
    system: str
    model: str
    is_root: bool
    has_sudo: bool
    has_systemd: bool
    accelerators: tuple[str, ...]
    memory_mb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the agent goes, and how it is kept running.

    ``system``: a hardened systemd unit and a user of its own. ``user``: below the home, by a small loop, since there is
    no systemd that we may use, as in a phone's Linux user space; nothing starts it after a restart of the machine.
    """

    kind: Literal["system", "user"]
    root: str
    sudo: str = ""

    @property
    def state(self) -> str:
        """The agent's own folder."""
        return f"{self.root}/state"


def parse_probe(text: str) -> Probe:
    """Return what ``PROBE`` printed.

    Raises:
        ConfigError: the machine cannot have an agent; the line says why (the environment's fault).
    """
    found: dict[str, list[str]] = {}
    for line in text[:65536].splitlines():
        key, mark, value = line.partition("=")
        if mark and value.strip():
            found.setdefault(key, []).append(value.strip())
    machine = found.get("machine", ["?"])[0]
    if machine not in _MACHINES:
        raise ConfigError(f"a machine of kind {machine}: expected aarch64 or x86_64")
    if "musl" in found.get("libc", [""])[0].lower():
        raise ConfigError("a system with musl: there are no wheels of onnxruntime for it; take Debian or Ubuntu")
    pythons = [one.split(" ", 1) for one in found.get("python", []) if one.split(" ", 1)[0] in _PYTHONS]
    if not pythons or len(pythons[0]) < 2:
        raise ConfigError("no Python from 3.11 to 3.13 there; on Debian and Ubuntu: apt install python3")
    free_kb = found.get("free_kb", ["0"])[0]
    if not free_kb.isdecimal() or int(free_kb) < _NEEDED_KB:
        raise ConfigError(f"{free_kb} kB of disk are free there, expected {_NEEDED_KB}")
    memory_kb = found.get("memory_kb", ["0"])[0]
    return Probe(
        platform=_MACHINES[machine],
        python=pythons[0][0],
        interpreter=pythons[0][1],
        home=found.get("home", ["/"])[0],
        system=found.get("system", ["unknown"])[0],
        model=found.get("model", [""])[0],
        is_root=found.get("user", [""])[0] == "0",
        has_sudo="sudo" in found,
        has_systemd="systemd" in found,
        accelerators=tuple(found.get("accelerator", [])),
        memory_mb=int(memory_kb) // 1024 if memory_kb.isdecimal() else 0,
    )


def place_of(probe: Probe, folder: str | None = None) -> Place:
    """Return where the agent goes: a system service where we may make one, else below the home.

    Raises:
        ConfigError: ``folder`` is a path that a shell would read otherwise (the user's fault).
    """
    if folder is not None and not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", folder):
        raise ConfigError(f"{folder}: expected an absolute path of letters, digits, dots and dashes")
    if probe.has_systemd and (probe.is_root or probe.has_sudo):
        return Place(kind="system", root=folder or "/opt/edgefold", sudo="" if probe.is_root else "sudo -n ")
    return Place(kind="user", root=folder or f"{probe.home}/.local/share/edgefold")


def program_text(interpreter: str) -> str:
    """Return ``bin/edgefold``, which finds its own folder wherever it lies."""
    return (
        "#!/bin/sh\n"
        'here=$(dirname "$(dirname "$(readlink -f "$0")")")\n'
        f'PYTHONPATH="$here/site" PYTHONSAFEPATH=1 exec {shlex.quote(interpreter)} -P -m edgefold "$@"\n'
    )


def unpack_script(place: Place, release: str) -> str:
    """Return a script that unpacks the release that comes on standard input, unless it is there already."""
    return _shell(
        place,
        f"root={shlex.quote(place.root)}; to=$root/releases/{shlex.quote(release)}",
        "umask 022",
        '[ -d "$to" ] && exit 0',
        'mkdir -p "$root/releases"; rm -rf "$to.new"; mkdir "$to.new"',
        'tar -xzf - -C "$to.new"',
        'mv "$to.new" "$to"',
    )


def activate_script(place: Place, release: str, agent_toml: str) -> str:
    """Return a script that makes ``release`` the current one, and the state's folder at the first time."""
    unit = agent_unit(
        AgentPlace(program=f"{place.root}/current/bin/edgefold", folder=place.state, token=f"{place.state}/token")
    ).replace(" edgefold-enrol.service", "")
    lines = [
        f"root={shlex.quote(place.root)}; state=$root/state; release={shlex.quote(release)}",
        'old=$(readlink "$root/current" || true)',
        '[ "$old" = "releases/$release" ] || [ -z "$old" ] || ln -sfn "$old" "$root/previous"',
        'ln -sfn "releases/$release" "$root/current.new"; mv -T "$root/current.new" "$root/current"',
        'mkdir -p "$state"; chmod 700 "$state"',
        f'[ -e "$state/agent.toml" ] || ( umask 077; printf %s {shlex.quote(agent_toml)} > "$state/agent.toml" )',
        '[ -e "$state/examples.jsonl" ] || ( umask 077; : > "$state/examples.jsonl" )',
    ]
    if place.kind == "system":
        lines += [
            'id edgefold >/dev/null 2>&1 || useradd --system --home-dir "$state" --shell /usr/sbin/nologin edgefold',
            'chown -R edgefold:edgefold "$state"',
            f"printf %s {shlex.quote(unit)} > /etc/systemd/system/edgefold-agent.service",
            "chmod 644 /etc/systemd/system/edgefold-agent.service",
            "systemctl daemon-reload; systemctl --quiet enable edgefold-agent.service",
        ]
    return _shell(place, *lines)


def agent_command(place: Place, *words: str) -> str:
    """Return a command line that runs the installed ``edgefold`` as the agent's user."""
    command = shlex.join([f"{place.root}/current/bin/edgefold", *words])
    if place.kind == "system":
        return f"{place.sudo}runuser -u edgefold -- {command}"
    return command


def start_script(place: Place) -> str:
    """Return a script that starts the agent anew."""
    if place.kind == "system":
        return _shell(place, "systemctl restart edgefold-agent.service")
    loop = (
        f'while :; do "{place.root}/current/bin/edgefold" agent run --config "{place.state}/agent.toml" '
        f'>> "{place.state}/agent.log" 2>&1; sleep 10; done'
    )
    return _shell(
        place,
        *_stop_lines(place),
        # A session of its own, so that one signal to its group ends loop, agent and trainer.
        f"setsid sh -c {shlex.quote(loop)} < /dev/null > /dev/null 2>&1 &",
        f"echo $! > {shlex.quote(place.state)}/agent.pid",
    )


def stop_script(place: Place) -> str:
    """Return a script that stops the agent; nothing happens if it does not run."""
    if place.kind == "system":
        return _shell(place, "systemctl stop edgefold-agent.service || true")
    return _shell(place, *_stop_lines(place))


def roll_back_script(place: Place) -> str:
    """Return a script that makes the release before the current one; prints ``none`` if there is none."""
    return _shell(
        place,
        f"root={shlex.quote(place.root)}",
        'old=$(readlink "$root/previous" || true)',
        '[ -n "$old" ] && [ -d "$root/$old" ] || { rm -f "$root/current"; echo none; exit 0; }',
        'ln -sfn "$old" "$root/current.new"; mv -T "$root/current.new" "$root/current"; echo "$old"',
    )


def _stop_lines(place: Place) -> tuple[str, ...]:
    pid = f"{shlex.quote(place.state)}/agent.pid"
    return (
        f'pid=$(cat {pid} 2>/dev/null || true); case "$pid" in ""|*[!0-9]*) pid="";; esac',
        # Only a process that is ours: the number may belong to another by now.
        'words=$([ -z "$pid" ] || tr "\\0" " " < "/proc/$pid/cmdline" 2>/dev/null || true)',
        'case "$words" in *"agent run"*) kill -TERM "-$pid" 2>/dev/null || kill -TERM "$pid" || true; sleep 1;; esac',
        f"rm -f {pid}",
    )


def _shell(place: Place, *lines: str) -> str:
    script = "set -eu\n" + "\n".join(lines) + "\n"
    return f"{place.sudo}sh -c {shlex.quote(script)}"
