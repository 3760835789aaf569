"""Real file systems in plain files, small ones; read back with debugfs and mtools."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from deploy.flash.file_systems import make_ext4, owner_script
from deploy.flash.programs import find_program, run_program
from deploy.flash.steps import Entry, Folder, Link, MakeExt4, Prune, Put, Run
from deploy.flash.workshop import AGENT_PACKAGES, carry_out, copy_agent
from protocol.errors import EngineError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

AGENT = Entry(path=PurePosixPath("home"), user_id=990, group_id=990, is_deep=True)


@pytest.mark.skipif(find_program("debugfs") is None, reason="e2fsprogs is not installed")
def test_owners_and_modes_inside_a_file_system_are_what_was_asked_for(tmp_path: Path) -> None:
    folder, image = tmp_path / "data", tmp_path / "data.ext4"
    carry_out(
        [
            Put(path=folder / "home/agent toml", data=b"x = 1\n", mode=0o600),
            Put(path=folder / "etc/passwd", data=b"", mode=0o644),
        ]
    )
    make_ext4(MakeExt4(folder=folder, label="data", out=image, free_bytes=4 << 20, owners=(AGENT,)))
    debugfs = find_program("debugfs") or ""
    for path, expected in {
        "/home/agent toml": ("990", "0600"),
        "/etc/passwd": ("0", "0644"),
        "/": ("0", "0755"),
    }.items():
        said = run_program((debugfs, "-R", f'stat "{path}"', str(image))).decode()
        assert f"User: {expected[0]:>5}" in " ".join(said.split("   ")) or f"User:{expected[0]:>6}" in said
        assert f"Mode:  {expected[1]}" in said
    assert run_program((debugfs, "-R", 'cat "/home/agent toml"', str(image))) == b"x = 1\n"


def test_a_name_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'a"b').write_text("")
    entry = Entry(path=PurePosixPath('a"b'), user_id=os.getuid() + 1)
    with pytest.raises(EngineError, match="cannot go into an image"):
        list(owner_script(tmp_path, [entry]))


def test_steps_write_modes_replace_links_and_prune(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/shadow").symlink_to(victim)
    carry_out(
        [
            Put(path=tmp_path / "etc/shadow", data=b"root:*\n", mode=0o600),
            Link(path=tmp_path / "etc/mtab", to="../proc/mounts"),
            Link(path=tmp_path / "etc/mtab", to="../proc/self/mounts"),
            Put(path=tmp_path / "site/tests/a.py", data=b""),
            Folder(path=tmp_path / "site/numpy"),
            Prune(root=tmp_path / "site", patterns=("**/tests", "nothing/*")),
        ]
    )
    assert victim.read_text() == "untouched"
    assert (tmp_path / "etc/shadow").stat().st_mode & 0o777 == 0o600
    assert str((tmp_path / "etc/mtab").readlink()) == "../proc/self/mounts"
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["numpy"]


def test_a_program_that_fails_is_one_error_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="sh failed: no room"):
        carry_out([Run(what="try", argv=("/bin/sh", "-c", "echo no room >&2; exit 3"))])
    with pytest.raises(EngineError, match="took more than"):
        carry_out([Run(what="wait", argv=("/bin/sleep", "9"), deadline_s=0.1)])
    (tmp_path / "plain").write_text("")
    with pytest.raises(StorageError, match="write x"):
        carry_out([Put(path=tmp_path / "plain/x", data=b"")])


def test_a_device_gets_its_own_packages_and_none_of_the_service(tmp_path: Path) -> None:
    copy_agent(tmp_path)
    names = {path.name for path in tmp_path.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {*AGENT_PACKAGES, "edgefold.py"}
    assert not list(tmp_path.rglob("__pycache__"))
