from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import pytest

from host import config
from protocol.errors import ConfigError
from protocol.fields import FieldError, Length, Range

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    wait_s: Annotated[float, Range(0.1, 10.0)] = 1.0
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    name: Annotated[str, Length(1, 8)]
    inner: Inner = Inner()
    sizes: tuple[Annotated[int, Range(1, 9)], ...] = ()

    def __post_init__(self) -> None:
        if self.name == "taken":
            raise FieldError("name: is taken")


def load(tmp_path: Path, text: str | bytes) -> Settings:
    path = tmp_path / "settings.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(Settings, path)


def test_a_file_becomes_a_frozen_dataclass(tmp_path: Path) -> None:
    loaded = load(tmp_path, 'name = "x"\nsizes = [1, 2]\n[inner]\nwait_s = 5\n')
    assert loaded == Settings(name="x", sizes=(1, 2), inner=Inner(wait_s=5.0))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "name: missing"),
        ('name = "x"\nnmae = "y"', "nmae: unknown key"),
        ("name = 5", "name: expected str, got int"),
        ('name = ""', "name: expected a length of 1 to 8"),
        ('name = "taken"', "name: is taken"),
        ('name = "x"\n[inner]\nwait_s = 0', r"inner\.wait_s: expected 0\.1 to 10"),
        ('name = "x"\n[inner]\nwait_s = nan', r"inner\.wait_s: expected 0\.1 to 10"),
        ('name = "x"\n[inner]\nkind = "c"', r"inner\.kind: expected one of a, b"),
        ('name = "x"\ninner = 1', "inner: expected a table"),
        ('name = "x"\nsizes = [1, 10]', r"sizes\[1\]: expected 1 to 9"),
        ("name = 2026-01-01", "name: expected str, got date"),
        ('name = "x', "not valid TOML"),
        ("name = " + "9" * 5000, "not valid TOML"),
        ("name = " + "[" * 5000, "not valid TOML"),
        (b"name = '\xff'", "not UTF-8"),
        (b"#" * (config.MAX_CONFIG_BYTES + 1), "longer than"),
    ],
    ids=range(16),
)
def test_a_mistake_is_one_line_that_names_file_and_key(tmp_path: Path, text: str | bytes, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as refused:
        load(tmp_path, text)
    assert "\n" not in str(refused.value)
    assert str(refused.value).count(str(tmp_path / "settings.toml")) == 1


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        config.load(Settings, tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="not a plain file"):
        config.load(Settings, tmp_path)
