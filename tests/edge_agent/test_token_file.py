from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.token_file import erase_token, read_token
from protocol.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "token"
    made.write_text("edgefold1-secret\n")
    made.chmod(0o600)
    return made


def test_a_token_is_read_and_erased_in_place(path: Path) -> None:
    assert read_token(path) == "edgefold1-secret"
    fd = os.open(path, os.O_RDONLY)  # the bytes on the disk, after the name is gone
    erase_token(path)
    assert not path.exists()
    assert os.read(fd, 100) == bytes(17)
    os.close(fd)
    erase_token(path)  # again is harmless


def test_a_token_that_others_may_read_is_refused(path: Path) -> None:
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_token(path)


def test_what_is_no_token_file_is_one_line(tmp_path: Path, path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_token(tmp_path / "nothing")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="holds no token"):
        read_token(path)


def test_erasing_follows_no_link(tmp_path: Path, path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(StorageError, match="cannot be erased"):
        erase_token(tmp_path / "link")
    assert path.read_text() == "edgefold1-secret\n"
