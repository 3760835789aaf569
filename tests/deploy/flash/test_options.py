"""What is typed and does not go together: one line each, and nothing begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from deploy.flash import image_cli
from deploy.flash.cli import flash
from protocol.enrolment import Token, token_text
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = [
    token_text(Token(fleet="home", url="mqtts://broker.example:8884", welcome=bytes(32), secret=bytes(15) + bytes([n])))
    for n in range(2)
]
CARD = ["--target", "rpi", "--device", "pi", "--token-file", "t", "--out", "a.img"]
SSH = ["--target", "ssh://root@host", "--device", "pi", "--token-file", "t"]
BASE = ["--base-image", "v.img", "--device", "pi", "--token-file", "t", "--out", "a.img"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--target, --base-image: expected one of them"),
        ([*CARD, "--base-image", "v.img"], "--target, --base-image: expected one of them"),
        (CARD[:4], "--token-file, --service: expected one of them"),
        ([*CARD, "--service", "aggregator.toml"], "--token-file, --service: expected one of them"),
        (CARD[:2] + CARD[4:6], "--device, --out: missing"),
        ([*SSH, "--count", "3"], "--count: for images; a machine reached by ssh is one device"),
        ([*SSH, "--ssh-key", "k"], "a machine that runs has its own"),
        ([*BASE, "--time-server", "x"], "a vendor's system has its own way"),
        ([*BASE, "--folder", "/x"], "--folder: for ssh:// alone"),
        ([*BASE, "--label-sheet", "letter"], "expected 63.5x38.1, 70x37, 99.1x38.1, plain"),
        ([*BASE, "--count", "2000"], "--count 2000: expected 1 to 1000"),
        ([*BASE, "--label-skip", "3"], "for a batch: --count"),
        (
            [*BASE, "--count", "2", "--label-url", "https://x", "--label-token"],
            "--label-url, --label-token: a code holds one of them",
        ),
        ([*BASE, "--count", "2", "--label-url", "x"], "--label-url x: expected https"),
        ([*BASE, "--count", "2", "--label-skip", "30"], "a sheet has 21"),
    ],
)
def test_what_does_not_go_together(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_cli, "require_programs", dict.fromkeys)  # whatever this machine has: none is started
    (tmp_path / "v.img").write_bytes(b"")
    (tmp_path / "t").write_text("\n".join(TOKENS[: words.count("--count") + 1]))
    (tmp_path / "t").chmod(0o600)
    done = CliRunner().invoke(flash, words)
    assert isinstance(done.exception, ConfigError)
    assert says in str(done.exception)
    assert "\n" not in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] in (["t", "v.img"], ["v.img", "t"])
