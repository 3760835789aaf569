from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from host import keys
from protocol.errors import ConfigError
from protocol.sealing import TaskKey
from protocol.second_signature import SecondSigningKey
from protocol.signing import SigningKey

if TYPE_CHECKING:
    from pathlib import Path


def test_keys_read_back_from_files_for_their_owner_alone(tmp_path: Path) -> None:
    signing, task = SigningKey.generate(), TaskKey.generate()
    keys.save_key(tmp_path / "signing.key", signing)
    keys.save_key(tmp_path / "task.key", task)
    assert keys.load_signing_key(tmp_path / "signing.key").raw == signing.raw
    assert keys.load_task_key(tmp_path / "task.key").raw == task.raw
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("content", [b"", b"00", b"zz" * 32, b"00" * 31, b"00" * 33, b"\xff" * 64, b"0" * 5000])
def test_what_is_no_key_is_a_config_error_that_does_not_show_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.key"
    path.write_bytes(content)
    path.chmod(0o600)
    for load in (keys.load_signing_key, keys.load_task_key):
        with pytest.raises(ConfigError) as refused:
            load(path)
        assert "0000" not in str(refused.value)


def test_a_missing_key_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such key file"):
        keys.load_signing_key(tmp_path / "none.key")


def test_a_second_key_lies_beside_the_first_and_is_found_with_it(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    first = keys.load_or_make_signing_key(path)
    assert first.public.second is None
    both = keys.load_or_make_signing_key(path, with_second=True)
    assert (both.raw, keys.load_signing_key(path).public.second) == (first.raw, both.public.second)
    assert {one.stat().st_mode & 0o777 for one in tmp_path.iterdir()} == {0o600}
    keys.second_key_file(path).chmod(0o644)
    with pytest.raises(ConfigError, match="others can read"):
        keys.load_signing_key(path)


def test_a_public_second_key_reads_back_from_its_file(tmp_path: Path) -> None:
    raw, path = SecondSigningKey.generate().public.raw, tmp_path / "service.pub"
    path.write_text(raw.hex() + "\n")
    assert keys.load_second_public(path) == raw
    for text in (raw.hex()[2:], "no hex", ""):
        path.write_text(text)
        with pytest.raises(ConfigError):
            keys.load_second_public(path)
