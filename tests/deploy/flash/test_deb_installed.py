"""The Debian package, built with its wheels and installed by apt into a Debian of its own: ``make test-deb``."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from deploy.flash.deb import PROGRAMS, deb_steps
from deploy.flash.programs import require_programs
from deploy.flash.workshop import carry_out

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.deb, pytest.mark.slow, pytest.mark.timeout(1800)]
# Run one after the other; $1 is the root of the Debian. What they print is looked at below.
HOOKS = """\
set -eu
cp "$DEB" "$1/agent.deb"
chroot "$1" apt-get install --yes --no-install-recommends /agent.deb
chroot "$1" edgefold --version >> "$SAID"
chroot "$1" edgefold agent --help | head -n 1 >> "$SAID"
chroot "$1" dpkg-query --show --showformat='${Package} ${Status}\\n' edgefold-agent >> "$SAID"
chroot "$1" stat -c '%n %U %a' /var/lib/edgefold /opt/edgefold/site/edgefold.py >> "$SAID"
chroot "$1" getent passwd edgefold >> "$SAID"
chroot "$1" dpkg --verify edgefold-agent >> "$SAID"
chroot "$1" runuser -u edgefold -- env PYTHONPATH=/opt/edgefold/site python3 -c "$RUNTIME" >> "$SAID"
chroot "$1" apt-get install --yes --reinstall /agent.deb
echo "again $?" >> "$SAID"
touch "$1/var/lib/edgefold/device.key"
chroot "$1" apt-get remove --yes edgefold-agent
ls "$1/var/lib/edgefold" >> "$SAID"
ls "$1/opt/edgefold" >> "$SAID" 2>/dev/null || echo no program >> "$SAID"
chroot "$1" apt-get purge --yes edgefold-agent
ls "$1/var/lib/edgefold" >> "$SAID" 2>/dev/null || echo no state >> "$SAID"
"""
# The heavy part too, as the agent's user.
RUNTIME = "import onnxruntime, numpy, tokenizers; print(*onnxruntime.get_available_providers())"
EXPECTED = """\
edgefold, version
Usage: edgefold agent
edgefold-agent install ok installed
/var/lib/edgefold edgefold 700
/opt/edgefold/site/edgefold.py root 644
edgefold:x:
CPUExecutionProvider
again 0
device.key
no program
no state
"""


@pytest.fixture
def machine() -> str:
    if os.environ.get("EDGEFOLD_DEB", "").lower() not in {"1", "true"}:
        pytest.skip("takes a minute and fetches wheels and packages; run: make test-deb")
    assert shutil.which("mmdebstrap"), "install mmdebstrap"
    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def test_apt_installs_it_it_runs_and_goes_again(machine: str, tmp_path: Path) -> None:
    package = tmp_path / f"edgefold-agent_0.1.0_{machine}.deb"
    work = tmp_path / "work"
    work.mkdir()
    programs = require_programs(PROGRAMS)
    carry_out(deb_steps(machine, "3.11", version="0.1.0", work=work, out=package, programs=programs))
    mode = "root" if os.getuid() == 0 else "unshare"
    command = ["mmdebstrap", "--quiet", f"--mode={mode}", "--variant=apt", "--include=util-linux"]
    command += ["--customize-hook", HOOKS]
    told = {"DEB": str(package), "SAID": str(tmp_path / "said"), "RUNTIME": RUNTIME}
    done = subprocess.run(
        [*command, "bookworm", str(tmp_path / "debian.tar"), "deb http://deb.debian.org/debian bookworm main"],
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
        env={**os.environ, **told, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (tmp_path / "said").read_text().splitlines()
    assert len(lines) == len(EXPECTED.splitlines()), lines
    for line, beginning in zip(lines, EXPECTED.splitlines(), strict=True):
        assert beginning in line, lines
