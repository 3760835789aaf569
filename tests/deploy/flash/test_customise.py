"""Vendors' images: tiny ones, whole ext4 file systems and partition tables, changed and read back by e2fsprogs."""

from __future__ import annotations

import lzma
from typing import TYPE_CHECKING, Any

import pytest

from deploy.flash import base_image
from deploy.flash.base_image import find_system, open_base
from deploy.flash.customise import VendorMaster, make_vendor_master
from deploy.flash.ext4_files import Ext4Files, read_superblock
from deploy.flash.partitions import read_partitions
from deploy.flash.programs import find_program, run_program
from deploy.flash.settings import DeviceSetup, make_setup
from deploy.flash.workshop import carry_out
from protocol.enrolment import Token, token_text
from protocol.errors import ConfigError
from tests.deploy.flash import tiny_image
from tests.deploy.flash.tiny_image import MIB

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(tiny_image.LACKING), reason=f"not installed: {tiny_image.LACKING}")
TOKEN = token_text(Token(fleet="home", url="mqtts://broker.example:8884", welcome=bytes(32), secret=bytes(range(16))))
AGENT = "989:989"  # 990 is taken in the tiny system


def setup_of(device: str = "kitchen-pi", **changes: Any) -> DeviceSetup:
    return make_setup(device=device, token=TOKEN, **changes)


def customised(base: Path, work: Path, *, n_bytes: int = 5000, **changes: Any) -> VendorMaster:
    work.mkdir()
    setup = setup_of(**changes)
    made = make_vendor_master(
        base, setup, work=work, release_for=lambda _: tiny_image.tiny_release(work, n_bytes=n_bytes)
    )
    carry_out(made.identity(setup, made.image))
    return made


@pytest.fixture
def small_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that needs next to no room, so that tiny images have it."""
    monkeypatch.setattr("deploy.flash.customise._ROOM_BYTES", 0)
    monkeypatch.setattr("deploy.flash.customise._ROOM_INODES", 0)


@pytest.mark.usefixtures("small_room")
@pytest.mark.parametrize("kind", ["dos", "gpt"])
def test_the_agent_is_in_and_everything_else_is_as_it_was(tmp_path: Path, kind: str) -> None:
    base = tiny_image.disk(tmp_path / "vendor.img", tiny_image.system_tree(tmp_path / "tree"), kind=kind)
    before_bytes = base.read_bytes()
    start = read_partitions(base).partitions[-1].start_bytes
    before = tiny_image.dumped(base, start, tmp_path / "before")
    made = customised(base, tmp_path / "work")
    after = tiny_image.dumped(made.image, start, tmp_path / "after")

    assert base.read_bytes() == before_bytes
    assert made.image.read_bytes()[:start] == before_bytes[:start]  # tables and the other partition
    Ext4Files(made.image, start).check()
    new = {path: what for path, what in after.items() if before.get(path) != what}
    assert set(before) <= set(after)
    assert {path for path in new if path in before} == {"/etc/passwd", "/etc/group", "/etc/shadow", "/etc/hosts"} | {
        "/etc/hostname"
    }
    state, opt = "/var/lib/edgefold", "/opt/edgefold"
    owners = {path: " ".join(what.split()[:2]) for path, what in new.items()}
    assert owners[state] == f"0700 {AGENT}"
    for name in ("agent.toml", "token", "examples.jsonl"):
        assert owners[f"{state}/{name}"] == f"0600 {AGENT}"
    assert owners[f"{opt}/releases/0123456789abcdef/bin/edgefold"] == "0755 0:0"
    assert owners[f"{opt}/releases/0123456789abcdef/site/numpy/core.so"] == "0644 0:0"
    assert new[f"{opt}/current"].endswith("releases/0123456789abcdef")
    assert new[f"{opt}/state"].endswith(state)
    for name in ("agent", "enrol"):
        unit = f"/etc/systemd/system/edgefold-{name}.service"
        assert owners[unit] == "0644 0:0"
        link = after[f"/etc/systemd/system/multi-user.target.wants/edgefold-{name}.service"]
        assert link.endswith(unit)
    assert owners["/etc/shadow"] == "0640 0:0"
    shadow = (tmp_path / "after/etc/shadow").read_text().splitlines()
    assert shadow[-2:] == ["pi:!:19000::::::", "edgefold:!:19000::::::"]
    assert (tmp_path / "after/etc/hosts").read_text() == "127.0.0.1 localhost\n127.0.1.1 kitchen-pi\n"
    assert (tmp_path / f"after{state}/token").read_text().strip() == TOKEN


@pytest.mark.parametrize("kind", ["dos", "gpt"])
def test_a_system_without_room_grows_with_its_partition(tmp_path: Path, kind: str) -> None:
    base = tiny_image.disk(tmp_path / "vendor.img", tiny_image.system_tree(tmp_path / "tree"), kind=kind)
    before = read_partitions(base)
    made = customised(base, tmp_path / "work", n_bytes=20 * MIB)
    after = read_partitions(made.image)
    assert made.grown_bytes > 148 * MIB  # room for months besides the agent
    assert after.partitions[0] == before.partitions[0]
    assert after.partitions[1].start_bytes == before.partitions[1].start_bytes
    assert after.partitions[1].size_bytes == before.partitions[1].size_bytes + made.grown_bytes
    Ext4Files(made.image, after.partitions[1].start_bytes).check()
    assert find_system(made.image).name == "Tiny Linux 1"


def test_a_system_that_is_not_last_cannot_grow(tmp_path: Path) -> None:
    tree = tiny_image.system_tree(tmp_path / "tree")
    base = tiny_image.disk(tmp_path / "vendor.img", tree, is_last=False)
    with pytest.raises(ConfigError, match=r"partition 2, has \d+ MB free, \d+ MB are needed, .* not the last"):
        customised(base, tmp_path / "work")


def refusal(base: Path, tmp_path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        customised(base, tmp_path / "work")
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"machine": tiny_image.ARM32}, "a system for 32-bit ARM"),
        ({"machine": (1, 3)}, "a system for 32-bit x86"),
        ({"machine": (2, 21)}, "machine 21 of 64 bits"),
        ({"python": "python3.9"}, r"expected Python 3.11, 3.12 or 3.13 in the image's /usr/bin, python3.9 is there"),
    ],
)
def test_systems_that_cannot_have_an_agent(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    tree = tiny_image.system_tree(tmp_path / "tree", **changes)
    assert says in refusal(tiny_image.disk(tmp_path / "vendor.img", tree), tmp_path)


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ("usr/lib/systemd/systemd", "no system with systemd"),
        ("etc/passwd", "no root in"),
        ("usr/bin/python3.11", "none is"),
    ],
)
def test_systems_that_lack_something(tmp_path: Path, lost: str, says: str) -> None:
    tree = tiny_image.system_tree(tmp_path / "tree")
    (tree / lost).unlink()
    assert says in refusal(tiny_image.disk(tmp_path / "vendor.img", tree), tmp_path)


def test_a_customised_image_is_not_customised_again(tmp_path: Path) -> None:
    tree = tiny_image.system_tree(tmp_path / "tree")
    (tree / "etc/passwd").write_text(tiny_image.PASSWD + "edgefold:x:989:989::/:/bin/false\n")
    assert "has edgefold already" in refusal(tiny_image.disk(tmp_path / "vendor.img", tree), tmp_path)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    tree = tiny_image.system_tree(tmp_path / "tree")
    base = tiny_image.disk(tmp_path / "vendor.img", tree)
    cases = {
        "cut off": base.read_bytes()[: 6 * MIB],
        "no partition table": bytes(MIB),
        "larger than the partition": _with_blocks(base, 1 << 20),
        "no ext4 file system": base.read_bytes()[: 4 * MIB] + bytes(13 * MIB),
    }
    for number, (says, data) in enumerate(cases.items()):
        path = tmp_path / f"odd-{number}.img"
        path.write_bytes(data)
        (tmp_path / f"{number}").mkdir()
        assert says in refusal(path, tmp_path / f"{number}")


def _with_blocks(base: Path, n_blocks: int) -> bytes:
    data = bytearray(base.read_bytes())
    at = read_partitions(base).partitions[-1].start_bytes + 1024 + 4
    data[at : at + 4] = n_blocks.to_bytes(4, "little")
    return bytes(data)


def test_a_damaged_file_system_is_refused_and_not_repaired(tmp_path: Path) -> None:
    base = tiny_image.disk(tmp_path / "vendor.img", tiny_image.system_tree(tmp_path / "tree"))
    start = read_partitions(base).partitions[-1].start_bytes
    debugfs = find_program("debugfs") or ""
    run_program((debugfs, "-w", "-R", "clri /home/pi", f"{base}?offset={start}"))  # what e2fsck -p leaves to a person
    assert "e2fsck finds the file system damaged" in refusal(base, tmp_path)


@pytest.mark.usefixtures("small_room")
def test_an_image_of_a_system_that_was_not_shut_down_gets_its_journal_replayed(tmp_path: Path) -> None:
    base = tiny_image.disk(tmp_path / "vendor.img", tiny_image.system_tree(tmp_path / "tree"))
    start = read_partitions(base).partitions[-1].start_bytes
    run_program((find_program("debugfs") or "", "-w", "-R", "feature needs_recovery", f"{base}?offset={start}"))
    found = read_superblock(base, start)
    assert found is not None
    assert found.needs_recovery
    made = customised(base, tmp_path / "work")
    after = read_superblock(made.image, start)
    assert after is not None
    assert not after.needs_recovery
    Ext4Files(made.image, start).check()


def test_packed_images_of_one_and_of_several_streams(tmp_path: Path) -> None:
    data = bytes(3 * MIB) + b"x" * 1000 + bytes(2 * MIB)
    packed = tmp_path / "a.img.xz"
    packed.write_bytes(lzma.compress(data[: 2 * MIB]) + bytes(8) + lzma.compress(data[2 * MIB :]) + bytes(4))
    open_base(packed, tmp_path / "a.img")
    assert (tmp_path / "a.img").read_bytes() == data
    assert (tmp_path / "a.img").stat().st_blocks * 512 <= MIB + 4096  # holes stay holes


@pytest.mark.parametrize("n_kept", [100, 20000, -5])
def test_a_packed_image_that_was_cut_off(tmp_path: Path, n_kept: int) -> None:
    packed = tmp_path / "a.img.xz"
    packed.write_bytes(lzma.compress(bytes(range(256)) * 100 + tiny_image.PASSWD.encode())[:n_kept])
    if n_kept == 20000:
        packed.write_bytes(b"no xz at all")
    with pytest.raises(ConfigError, match=r"not a whole \.xz file|not an \.xz file"):
        open_base(packed, tmp_path / "a.img")


def test_a_bomb_ends_at_a_bound_and_a_greedy_header_at_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "a.img.xz"
    packed.write_bytes(lzma.compress(bytes(40 * MIB), preset=0))
    monkeypatch.setattr(base_image, "MAX_IMAGE_BYTES", 16 * MIB)
    with pytest.raises(ConfigError, match="no vendor's image is so large"):
        open_base(packed, tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    packed.write_bytes(lzma.compress(bytes(4 * MIB), filters=filters))
    monkeypatch.setattr(base_image, "_MAX_UNPACKING_BYTES", 65536)
    with pytest.raises(ConfigError, match="can be unpacked: Memory"):
        open_base(packed, tmp_path / "a.img")


def test_other_packings_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(ConfigError, match="unpack it first"):
        open_base(tmp_path / "a.zip", tmp_path / "a.img")
    with pytest.raises(ConfigError, match="no such image"):
        open_base(tmp_path / "b.img", tmp_path / "a.img")
