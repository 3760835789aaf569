"""Units as text, held against what systemd.exec(5) says of them; systemd's own checker reads them where it is here."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from deploy.flash.accounts import group_text, passwd_text, shadow_text
from deploy.flash.units import AgentPlace, agent_unit, enrol_unit, grow_unit, host_key_unit

if TYPE_CHECKING:
    from pathlib import Path

ANALYZE = shutil.which("systemd-analyze")
UNITS = {
    "edgefold-agent.service": agent_unit(AgentPlace()),
    "edgefold-enrol.service": enrol_unit(AgentPlace()),
    "edgefold-grow.service": grow_unit("edgefold-data"),
    "edgefold-ssh-key.service": host_key_unit(),
}


def section(text: str, name: str) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return dict(parser[name])


@pytest.mark.parametrize("name", ["edgefold-agent.service", "edgefold-enrol.service"])
def test_the_agent_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = section(UNITS[name], "Service")
    assert service["User"] == "edgefold"
    assert service["CapabilityBoundingSet"] == ""
    yes = ("NoNewPrivileges", "PrivateDevices", "PrivateTmp", "ProtectKernelModules", "MemoryDenyWriteExecute")
    assert [service[key] for key in yes] == ["yes"] * len(yes)
    assert service["ProtectSystem"] == "strict"
    assert service["ReadWritePaths"].split()[0] == "/data/edgefold"


def test_a_trainer_out_of_memory_does_not_end_the_agent_and_it_is_started_for_ever() -> None:
    service = section(UNITS["edgefold-agent.service"], "Service")
    assert (service["OOMPolicy"], service["Restart"]) == ("continue", "always")
    assert section(UNITS["edgefold-agent.service"], "Unit")["StartLimitIntervalSec"] == "0"


def test_enrolment_runs_only_while_there_is_a_token_and_erases_it() -> None:
    assert section(UNITS["edgefold-enrol.service"], "Unit")["ConditionPathExists"] == "/data/provision/token"
    assert "--erase" in section(UNITS["edgefold-enrol.service"], "Service")["ExecStart"]


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    for name, text in UNITS.items():
        lines = ["ExecStart=/bin/true" if line.startswith("ExecStart=") else line for line in text.splitlines()]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    paths = [str(tmp_path / name) for name in UNITS]
    done = subprocess.run([str(ANALYZE), "verify", *paths], capture_output=True, text=True, check=False, timeout=60)
    assert "Unknown" not in done.stderr
    assert "Failed to parse" not in done.stderr


def test_no_password_fits_anybody() -> None:
    passwd = passwd_text("root:*:0:0:root:/root:/bin/bash\ndaemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n")
    assert {line.split(":")[1] for line in shadow_text(passwd).splitlines()} == {"*"}
    assert {line.split(":")[1] for line in passwd.splitlines()} == {"x"}
    assert "edgefold:x:990:990::/data/edgefold:/usr/sbin/nologin" in passwd
    numbers = [line.split(":")[2] for line in passwd.splitlines()]
    assert len(set(numbers)) == len(numbers)
    assert "edgefold:x:990:" in group_text("root:*:0:\n").splitlines()
