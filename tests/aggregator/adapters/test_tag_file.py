"""The operator's tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.tag_file import TagFile
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_changed_file_is_read_again_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "tags.toml"
    path.write_text('[tags]\npi-1 = "roof"\n')
    tags = TagFile(path)
    assert (tags.tag_of("pi-1"), tags.tag_of("pi-2")) == ("roof", "")
    path.write_text('[tags]\npi-1 = "roof"\npi-2 = "indoors"\n')
    assert tags.tag_of("pi-2") == "indoors"
    path.write_text("[tags")
    assert tags.tag_of("pi-2") == "indoors"
    path.unlink()
    assert tags.tag_of("pi-2") == "indoors"


@pytest.mark.parametrize("text", ["", "[tags]\npi = 3\n", '[tags]\n"Pi 1" = "roof"\n'])
def test_a_wrong_file_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tags.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="tags"):
        TagFile(path)
