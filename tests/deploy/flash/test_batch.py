"""Batches: names, tokens, copies, the manifest; a tiny image stands in for a card's."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from deploy.flash import sparse_files
from deploy.flash.batch import device_names, make_batch, parse_tokens, token_id
from deploy.flash.ext4_files import Ext4Files, FileIn
from deploy.flash.partitions import read_partitions
from deploy.flash.settings import make_setup
from deploy.flash.steps import Inject
from protocol.enrolment import Token, fingerprint, parse_token, token_text
from protocol.errors import ConfigError, EngineError
from tests.deploy.flash import tiny_image
from tests.deploy.flash.tiny_image import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deploy.flash.batch import MadeImage
    from deploy.flash.settings import DeviceSetup
    from deploy.flash.steps import Step


def token(number: int, fleet: str = "home") -> str:
    return token_text(
        Token(fleet=fleet, url="mqtts://broker.example:8884", welcome=bytes(32), secret=bytes(15) + bytes([number]))
    )


@pytest.mark.parametrize(
    ("pattern", "count", "first", "expected"),
    [
        ("shop-{:03}", 2, 1, ("shop-001", "shop-002")),
        ("shop-{}", 2, 9, ("shop-09", "shop-10")),
        ("shop", 1, 1, ("shop-1",)),
        ("a{:2}b", 1, 7, ("a07b",)),
    ],
)
def test_names(pattern: str, count: int, first: int, expected: tuple[str, ...]) -> None:
    assert device_names(pattern, count, first=first) == expected


@pytest.mark.parametrize("pattern", ["a{}{}", "a{:x}", "a{0}", "a{", "a}b{}", "{device.__class__}"])
def test_a_pattern_is_one_number_and_nothing_else(pattern: str) -> None:
    with pytest.raises(ConfigError, match="where the number goes"):
        device_names(pattern, 2)


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_has_bounds(count: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 1000"):
        device_names("a", count)


def test_tokens_come_as_lines_or_as_json_and_each_once() -> None:
    two = [token(1), token(2)]
    assert parse_tokens("\n".join(two) + "\n", 2) == tuple(two)
    assert parse_tokens(json.dumps({"tokens": two, "expires": "tomorrow"}), 2) == tuple(two)
    for text, says in (
        (two[0], "1 tokens for 2 devices"),
        (f"{two[0]} {two[0]}", "one is there twice"),
        (f"{two[0]} {token(2, 'other')}", "more than one fleet"),
        ("{}", "expected what edgefold devices token prints"),
        ("nonsense nonsense2", "token"),
    ):
        with pytest.raises(ConfigError, match=says):
            parse_tokens(text, 2)


def test_a_tokens_id_is_the_beginning_of_the_hash_that_the_service_keeps_and_not_the_token() -> None:
    text = token(7)
    assert fingerprint(parse_token(text).secret).hex().startswith(token_id(text))
    assert token_id(text) not in text


@pytest.fixture
def master(tmp_path: Path) -> Path:
    if tiny_image.LACKING:
        pytest.skip(f"not installed: {tiny_image.LACKING}")
    return tiny_image.disk(tmp_path / "master.img", tiny_image.system_tree(tmp_path / "tree"))


def setups(count: int) -> tuple[DeviceSetup, ...]:
    names = device_names("shop-{:02}", count)
    return tuple(make_setup(device=name, token=token(number)) for number, name in enumerate(names))


def identity(setup: DeviceSetup, image: Path) -> Sequence[Step]:
    change = FileIn(path=PurePosixPath("/etc/hostname"), data=setup.device.encode())
    secret = FileIn(path=PurePosixPath("/provision/token"), data=setup.token.encode(), mode=0o600)
    return [Inject(image=image, number=2, changes=(change, secret))]


def test_each_image_is_one_devices_and_the_master_stays(master: Path, tmp_path: Path) -> None:
    before = master.read_bytes()
    seen: list[str] = []

    def finish(folder: Path, made: Sequence[MadeImage]) -> None:
        (folder / "labels.html").write_text(str(len(made)))

    made = make_batch(master, setups(3), out=tmp_path / "out", identity=identity, finish=finish, watch=seen.append)
    assert master.read_bytes() == before
    assert [one.device for one in made] == ["shop-01", "shop-02", "shop-03"]
    assert seen[-1] == "image 3 of 3: shop-03"
    start = read_partitions(master).partitions[1].start_bytes
    listed = json.loads((tmp_path / "out/manifest.json").read_text())
    for setup, one in zip(setups(3), listed["images"], strict=True):
        path = tmp_path / "out" / one["image"]
        files = Ext4Files(path, start)
        files.check()
        assert files.read(PurePosixPath("/etc/hostname"), max_bytes=99) == setup.device.encode()
        assert files.read(PurePosixPath("/provision/token"), max_bytes=999) == setup.token.encode()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == one["sha256"]
        assert path.stat().st_mode & 0o777 == 0o600
        assert setup.token not in (tmp_path / "out/manifest.json").read_text()
        for other in setups(3):
            assert (other.token.encode() in path.read_bytes()) == (other is setup or other.token == setup.token)
    assert (tmp_path / "out/labels.html").read_text() == "3"


def test_holes_stay_holes(master: Path, tmp_path: Path) -> None:
    with master.open("r+b") as file:
        file.truncate(200 * MIB)
    make_batch(master, setups(2), out=tmp_path / "out", identity=identity, finish=lambda _f, _m: None)
    used = sum(path.stat().st_blocks * 512 for path in (tmp_path / "out").glob("*.img"))
    assert used < 2 * 40 * MIB


def test_all_or_nothing(master: Path, tmp_path: Path) -> None:
    def broken(setup: DeviceSetup, image: Path) -> Sequence[Step]:
        if setup.device == "shop-02":
            raise EngineError("no more")
        return identity(setup, image)

    with pytest.raises(EngineError, match="no more"):
        make_batch(master, setups(2), out=tmp_path / "out", identity=broken, finish=lambda _f, _m: None)
    assert not list(tmp_path.glob("*out*"))
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        make_batch(master, setups(2), out=tmp_path / "out", identity=identity, finish=lambda _f, _m: None)


def test_a_batch_that_does_not_fit_is_refused_before_the_first_copy(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 70 * MIB

    monkeypatch.setattr(sparse_files.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(ConfigError, match=r"0\.1 GB are free, a batch of 9 takes"):
        make_batch(master, setups(9), out=tmp_path / "out", identity=identity, finish=lambda _f, _m: None)
    assert not list(tmp_path.glob("*out*"))


def test_what_debugfs_complains_of_is_an_error(master: Path) -> None:
    start = read_partitions(master).partitions[1].start_bytes
    files = Ext4Files(master, start)
    with pytest.raises(EngineError, match="debugfs: "):
        files.apply([FileIn(path=PurePosixPath("/large"), data=b"x" * (40 * MIB))])
    with pytest.raises(EngineError, match="cannot go into an image"):
        files.apply([FileIn(path=PurePosixPath('/a" b'), data=b"")])
