from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
[device]
fleet = "home"
id = "pi"
key = "device.key"
service_key = "{service_key}"
bundles = ["bundle"]
[broker]
url = "{url}"
[data]
train = "train.jsonl"
"""


def run(folder: Path, text: str) -> tuple[int, str]:
    (folder / "agent.toml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "edgefold", "agent", "run", "--config", str(folder / "agent.toml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("[device]", "[devise]"), 2, "devise: unknown key"),
        (('id = "pi"', 'id = "Pi/../x"'), 2, "device.id: expected lower-case"),
        (('id = "pi"', 'id = "service"'), 2, "aggregator's name"),
        (("0" * 64, "zz"), 2, "device.service_key"),
        (("mqtt://127.0.0.1", "mqtt://example.org"), 2, "loopback only"),
        (("mqtt://127.0.0.1", "http://127.0.0.1"), 2, "expected mqtts://"),
        (('train = "train.jsonl"', 'train = "missing.jsonl"'), 2, "data.train: no such file"),
        (("[data]", "[data"), 2, "not valid TOML"),
        (("", ""), 3, "no bundle here"),
        (
            ('mqtt://127.0.0.1"', 'mqtt://127.0.0.1"\nfallback_url = "mqtts://h:443"'),
            2,
            "broker.fallback_url: expected",
        ),
        (("[data]", "[rules]\nmax_joules_a_day = 1\n[data]"), 2, "rules: max_joules_a_day: needs training_watts"),
        (('bundles = ["bundle"]', ""), 2, "device.bundles: missing"),
        (("[data]", '[bundles]\nurl = "http://h"\n[data]'), 2, "bundles: url: expected https://"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(tmp_path: Path, change: tuple[str, str], code: int, words: str) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "x", "label": 0}\n')
    text = GOOD.format(service_key="0" * 64, url="mqtt://127.0.0.1").replace(*change)
    returncode, stderr = run(tmp_path, text)
    assert returncode == code
    assert words in stderr
    assert len(stderr.strip().splitlines()) == 1


def test_help_teaches_the_configuration() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgefold", "agent", "run", "--help"], capture_output=True, text=True, check=True
    )
    assert "service_key" in done.stdout


def test_the_devices_line_for_the_registry_is_printed_and_stays_the_same(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "x", "label": 0}\n')
    (tmp_path / "agent.toml").write_text(GOOD.format(service_key="0" * 64, url="mqtt://127.0.0.1"))
    command = [sys.executable, "-m", "edgefold", "agent", "key", "--config", str(tmp_path / "agent.toml")]
    lines = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert lines[0] == lines[1]
    (public,) = tomllib.loads(lines[0]).values()
    assert len(bytes.fromhex(public)) == 32
    assert (tmp_path / "device.key").stat().st_mode & 0o077 == 0
