from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from host import logs, memory


def lines_of(script: str) -> list[dict[str, Any]]:
    """Run ``script`` in a process of its own and return its log lines."""
    command = [sys.executable, "-c", "from host import logs\n" + script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_an_event_is_one_line_of_json_with_its_facts() -> None:
    script = (
        "import pathlib\nlogs.configure()\n"
        "logs.event('round-opened', round=3, text='two\\nlines \\u2028 \\ud800', path=pathlib.Path('x'))\n"
        "logs.event('quiet', level=10)\n"
    )
    (line,) = lines_of(script)
    assert line.pop("at").endswith("+00:00")
    expected = {"level": "info", "event": "round-opened", "round": 3, "text": "two\nlines \u2028 \ud800", "path": "x"}
    assert line == expected


def test_an_exception_stays_within_its_line() -> None:
    script = (
        "logs.configure(level='debug')\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    logs.event('died', level=40, exc_info=True)\n"
        "logs.event('100% \\n {done}', level=10)\n"
    )
    died, done = lines_of(script)
    assert "ZeroDivisionError" in died["trace"]
    assert done["event"] == "100% \n {done}"


def test_a_fact_cannot_replace_the_event_or_its_time() -> None:
    (line,) = lines_of("logs.configure()\nlogs.event('real', **{'event': 'forged', 'at': 'never'})\n")
    assert line["event"] == "real"
    assert line["at"] != "never"


def test_events_go_through_the_standard_library_so_that_tests_can_catch_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="edgefold"):
        logs.event("seen", round=1)
    assert caplog.records[0].getMessage() == "seen"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc here")
def test_memory_is_what_the_operating_system_says() -> None:
    import psutil

    process = psutil.Process()
    resident = memory.resident_bytes(process.pid)
    assert resident is not None
    assert abs(resident - process.memory_info().rss) < 8 << 20
    assert memory.peak_bytes() >= resident - (8 << 20)
    assert memory.resident_bytes(2**22 + 1) is None


def test_peak_memory_grows_with_what_is_allocated_and_does_not_shrink() -> None:
    script = (
        "from host.memory import peak_bytes\nbefore = peak_bytes()\n"
        "block = bytearray(64 << 20)\nblock[::4096] = b'x' * len(block[::4096])\ndel block\n"
        "print(peak_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert 60 << 20 < int(done.stdout) < 80 << 20
