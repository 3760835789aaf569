"""What memory does a trainer need? Its peak as the kernel counts it, and what of it repeats from run to run.

Two counters. The *peak* is the kernel's own (VmHWM). Of a mapped file it counts what happens to be mapped, and that
depends on how the page cache holds the file: one read of a weights file that was written in large pieces maps 2 MB, of
one written in small ones 64 kB, so that the same float32 training peaks at 107 or at 130 MB. The *working set* is what
must stay in memory for nothing to be read from the disk twice: the largest anonymous memory, the resident libraries,
and the whole of every file of the bundle that is mapped, each once. It repeats to a megabyte.

Laws: looks at a child from outside, reads procfs alone; a kernel without it gives zeros beside the peak.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from host.trainer_process import TrainerProcess
from protocol.errors import EdgefoldError, EngineError
from protocol.jobs import TrainResult

if TYPE_CHECKING:
    from host.trainer_process import Result
    from protocol.jobs import TrainJob

__all__ = ["Residency", "in_small_pages", "train_watched"]

_EVERY_S: Final = 0.02  # an arena keeps what it once took, so the largest is still there at the next look
_MAPS_EVERY: Final = 10  # looks; a list of mappings costs the kernel a millisecond
_PIECE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """The memory of one trainer, in bytes."""

    peak_bytes: int
    anonymous_bytes: int = 0
    libraries_bytes: int = 0
    bundle_bytes: int = 0

    @property
    def working_set_bytes(self) -> int:
        """Return what must stay in memory for nothing to be read twice."""
        return self.anonymous_bytes + self.libraries_bytes + self.bundle_bytes


def in_small_pages(folder: Path) -> None:
    """Write a bundle's files again in pieces of a page, as a device's page cache holds them that read them slowly."""
    for path in folder.iterdir():
        data = path.read_bytes()
        path.unlink()
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(data), _PIECE_BYTES):
                file.write(data[start : start + _PIECE_BYTES])


def train_watched(job: TrainJob, *, deadline_s: float) -> tuple[TrainResult, Residency]:
    """Run ``job`` in a trainer process and return its result and what memory it needed.

    Raises:
        EdgefoldError: as ``host.trainer_process.run_job``.
    """
    ended = threading.Event()
    outcome: list[Result | EdgefoldError] = []

    def end(result: Result | EdgefoldError) -> None:
        outcome.append(result)
        ended.set()

    process = TrainerProcess(job, on_end=end)
    seen = _Seen(process.pid, Path(job.bundle))
    try:
        for number in range(int(deadline_s / _EVERY_S)):
            seen.look(with_maps=number % _MAPS_EVERY == 0)
            if ended.wait(_EVERY_S):
                break
    finally:
        process.close()
    result = outcome[0]
    if isinstance(result, EdgefoldError):
        raise result
    if not isinstance(result, TrainResult):
        raise EngineError(f"the trainer answered {type(result).__name__} to a job of training")
    return result, seen.residency(result.peak_memory_bytes)


class _Seen:
    """The largest and the last of what was seen of a process."""

    def __init__(self, pid: int, bundle: Path) -> None:
        self._proc, self._bundle = Path(f"/proc/{pid}"), f"{bundle.resolve()}/"
        self._anonymous = self._libraries = self._files = 0

    def look(self, *, with_maps: bool) -> None:
        """Look once; a process that has ended shows nothing."""
        try:
            status = (self._proc / "status").read_text("ascii")
            lines = (self._proc / "smaps").read_text("utf-8", "replace").splitlines() if with_maps else []
        except OSError:
            return
        found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
        self._anonymous = max(self._anonymous, *(int(kilobytes) * 1024 for kilobytes in found), 0)
        self._read(lines)

    def _read(self, lines: list[str]) -> None:
        """Take the files out of a list of mappings (proc_pid_smaps(5)) that has some of the bundle's."""
        ours: set[str] = set()
        libraries, path = 0, ""
        for line in lines:
            fields = line.split(maxsplit=5)
            if "-" in fields[0]:
                path = fields[5] if len(fields) == 6 and fields[5].startswith("/") else ""
                ours |= {path} if path.startswith(self._bundle) else set()
            elif fields[0] == "Rss:" and path and path not in ours:
                libraries += int(fields[1]) * 1024
        if ours:  # before that it is loading, and lets go of most of its libraries afterwards
            self._libraries = libraries
            self._files = max(self._files, sum(Path(one).stat().st_size for one in ours if Path(one).exists()))

    def residency(self, peak_bytes: int) -> Residency:
        """Return all that was seen."""
        return Residency(
            peak_bytes=peak_bytes,
            anonymous_bytes=self._anonymous,
            libraries_bytes=self._libraries,
            bundle_bytes=self._files,
        )
