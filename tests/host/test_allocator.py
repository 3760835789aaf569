"""A process that keeps freed memory doesn't have the same pages cleared again and again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import resource, sys
from host.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory(128 << 20)
def take():
    held = [b"x" * (12 << 20) for _ in range(3)]
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_is_kept_is_not_cleared_again() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", _SCRIPT, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 100 < faults("leave")
