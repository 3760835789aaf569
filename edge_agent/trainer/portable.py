"""The engine ``portable``: a bundle's training and evaluation graphs in an ordinary onnxruntime.

Laws: no exception of onnxruntime leaves this file; a session is made when it is
first needed; the weights are mapped, never read into private memory. Memory: the activations of one batch and the
runtime itself, see docs/export.md for both in MB. It does not optimise, clip or batch.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from host.base_change import ChangedBase
from protocol.errors import BundleError, ConfigError, EdgefoldError, EngineError
from protocol.per_example import CLIP, COUNTS, LOSSES, NORMS, POINTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch
    from host.base_change import Weights
    from protocol.bundle import Manifest

__all__ = ["ENGINE", "PortableEngine", "open_engine"]

ENGINE: Final = "portable"
_PROVIDERS: Final = ["CPUExecutionProvider"]
# The arena takes from the system what a tensor needs; its default, doubling, keeps up to twice of it.
_EXTEND_AS_REQUESTED: Final = 1
# Split a free block for a smaller tensor when more than this would lie idle; the default is 128 MB, which never splits.
_MAX_IDLE_BYTES: Final = 4096
_MADV_DONTNEED: Final = 4  # <sys/mman.h>; of a private read-only file mapping it drops the mapping, not the data
# They would widen stored weights once for all, in private memory, and keep what the graph says to compute again.
_NOT_WANTED: Final = ["ConstantFolding", "CommonSubexpressionElimination"]
_ERRORS_ONLY: Final = 3  # onnxruntime's severity: its warnings are for graph authors

_PER_EXAMPLE: Final = {LOSSES: "tensor(float)", NORMS: "tensor(float)", POINTS: "tensor(int32)"}

# onnxruntime's exceptions share no base of their own; each is blamed here. A table is read from the top.
_Blame = tuple[tuple[tuple[type[Exception], ...], type[EdgefoldError]], ...]
_WHILE_LOADING: Final[_Blame] = (
    ((MemoryError,), EngineError),
    ((ort_errors.RuntimeException, ort_errors.EPFail), EngineError),
    ((ort_errors.Fail, ort_errors.InvalidGraph, ort_errors.InvalidProtobuf, ort_errors.InvalidArgument), BundleError),
    ((ort_errors.NoModel, ort_errors.NoSuchFile, ort_errors.NotImplemented, ort_errors.NotFound), BundleError),
    ((RuntimeError, ValueError), BundleError),
)
_WHILE_RUNNING: Final[_Blame] = (
    ((ort_errors.InvalidArgument, ValueError, TypeError), ConfigError),  # a shape or type that the graph refuses
    ((ort_errors.RuntimeException, ort_errors.Fail, ort_errors.EPFail, RuntimeError, MemoryError), EngineError),
    ((ort_errors.NotImplemented, ort_errors.NotFound), EngineError),
)


def open_engine(folder: Path, manifest: Manifest, *, threads: int, base: ChangedBase | None = None) -> PortableEngine:
    """Return the engine of a bundle whose files were checked and whose manifest names this engine."""
    files = manifest.engines[ENGINE]
    single = None if files.per_example is None else folder / files.per_example
    return PortableEngine(
        train=folder / files.train, evaluate=folder / files.evaluate, per_example=single, threads=threads, base=base
    )


class PortableEngine:
    """Implements ``edge_agent.trainer.engines.Engine`` and ``ExampleEngine``."""

    def __init__(
        self,
        *,
        train: Path,
        evaluate: Path,
        threads: int,
        per_example: Path | None = None,
        base: ChangedBase | None = None,
    ) -> None:
        """Keep the paths, and the weights that take the place of the bundle's own; nothing is loaded yet."""
        self._train_path, self._evaluate_path, self._threads = train, evaluate, threads
        self._per_example_path = per_example
        self._per_example: ort.InferenceSession | None = None
        self._base = base or ChangedBase()  # a session reads these arrays where they are
        self._train: ort.InferenceSession | None = None
        self._evaluate: ort.InferenceSession | None = None
        self._weights: _MappedWeights | None = None

    def loss_and_gradient(self, theta: NDArray[np.float32], batch: Batch) -> tuple[float, NDArray[np.float32]]:
        """Return the mean loss and its gradient, as the port says."""
        if self._train is None:
            self._train, self._weights = _session(self._train_path, self._threads, self._base.train), None
        loss, gradient = self._run(self._train, ["loss", "grad"], theta, batch)
        return float(loss), gradient

    def clipped_points(
        self, theta: NDArray[np.float32], batch: Batch, *, counts: NDArray[np.float32], clip: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        """Return losses, norms and the clipped sum, as the port says."""
        if self._per_example is None:
            if self._per_example_path is None or self._base.train:
                raise BundleError("the bundle has no graph of single examples, or none for changed base weights")
            session, self._weights = _session(self._per_example_path, self._threads, {}), None
            found = {value.name: value.type for value in session.get_outputs()}
            if found != _PER_EXAMPLE:
                raise BundleError(f"{self._per_example_path.name}: its outputs are {found}, expected {_PER_EXAMPLE}")
            self._per_example = session
        feeds = {**batch, COUNTS: counts, CLIP: np.array(clip, np.float32)}
        losses, norms, points = self._run(self._per_example, [LOSSES, NORMS, POINTS], theta, feeds)
        if losses.shape != counts.shape or norms.shape != counts.shape or points.shape != theta.shape:
            raise BundleError(f"{self._per_example_path}: its outputs have shapes of something else")
        return losses, norms, points

    def scores(self, theta: NDArray[np.float32], batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Return what the evaluation graph gives, as the port says."""
        if self._evaluate is None:
            self._evaluate, self._weights = _session(self._evaluate_path, self._threads, self._base.evaluate), None
        names = [value.name for value in self._evaluate.get_outputs()]
        return dict(zip(names, self._run(self._evaluate, names, theta, batch), strict=True))

    def _run(
        self, session: ort.InferenceSession, outputs: list[str], theta: NDArray[np.float32], batch: Batch
    ) -> list[Any]:
        wanted = {value.name for value in session.get_inputs()}
        feeds = {"theta": theta, **{name: array for name, array in batch.items() if name in wanted}}
        with _translated("a batch", _WHILE_RUNNING):
            # Copies: what the runtime gives lies in its arena, and the next step would have to be laid around it.
            result = [np.array(one) for one in session.run(outputs, feeds)]
        if self._weights is None:  # the first run of a session: now its mappings are there
            self._weights = _MappedWeights(self._train_path.parent)
        self._weights.let_go()
        return result


def _session(path: Path, threads: int, weights: Weights) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # A plan of the memory by offsets, made anew for every shape, took 140 MB more at 16 x 64 and no less time.
    options.enable_mem_pattern = False
    # Reuse hands a dead value's buffer to the next of its size, which may come much later, and holds it until then:
    # 18 MB at 16 x 64, 28 MB where layers are computed again. The arena gives it to whoever comes first.
    options.enable_mem_reuse = False
    # In the order of the file: export writes it so that what the backward needs is small by the time it must be kept.
    # The default order computes slopes late and keeps their inputs: 55 MB more at 16 x 64.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    # A packed copy of every weight would be 43 MB of private memory, for nothing at 1024 rows.
    options.add_session_config_entry("session.disable_prepacking", "1")
    # Idle threads sleep: a spinning one takes a core from the owner of the device.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Of the code that ran until here little is run again; without it making the session was a small batch's peak.
    _let_go(_clean_mappings("/", is_read_only=True))
    with _translated(path.name, _WHILE_LOADING):
        if weights:  # of other names, shapes or types than the graph's it takes none
            values = [ort.OrtValue.ortvalue_from_numpy(one) for one in weights.values()]
            options.add_external_initializers(list(weights), values)
        session = ort.InferenceSession(str(path), options, providers=_PROVIDERS, disabled_optimizers=_NOT_WANTED)
    # Of the code that made the session little is run again: 17 MB of libraries, mapped anew where they are.
    # Only what nobody may write, so that no other thread can write it between the look and the letting go.
    _let_go(_clean_mappings("/", is_read_only=True))
    return session


class _MappedWeights:
    """Lets go of the mapped pages of a bundle's weights between steps; the next step maps those that it touches.

    The kernel maps sixteen pages for each one that is read, so after some batches the whole table of word embeddings
    counts as this process's memory, of which one batch reads a twentieth. The pages stay in the kernel's cache: a step
    pays about a millisecond to map its own again. Only pages that were never written are let go, since those alone
    come back as they were. Linux only; elsewhere nothing happens and nothing is wrong.
    """

    def __init__(self, folder: Path) -> None:
        """Find the mappings of files in ``folder``; made after a session's first run, when they are all there."""
        self._ranges = _clean_mappings(f"{folder.resolve()}/")

    def let_go(self) -> None:
        """Drop the mapped pages."""
        _let_go(self._ranges)


def _let_go(ranges: list[tuple[int, int]]) -> None:
    """Drop mapped pages that the next access maps again; where the system cannot, they stay."""
    advise = _libc_madvise()
    if advise is not None:
        for start, n_bytes in ranges:
            advise(start, n_bytes, _MADV_DONTNEED)


def _clean_mappings(prefix: str, *, is_read_only: bool = False) -> list[tuple[int, int]]:
    """Return (address, length) of every private mapping of a file below ``prefix`` of which no page was written.

    With ``is_read_only`` only of those that no page can be written of.

    Source: proc_pid_smaps(5): a line per mapping, then its counts; "Anonymous" are pages that are the process's own.
    """
    found: list[tuple[int, int]] = []
    here: tuple[int, int] | None = None
    with contextlib.suppress(OSError), open("/proc/self/smaps", encoding="utf-8", errors="replace") as maps:  # noqa: PTH123
        for line in maps:
            fields = line.split(maxsplit=5)
            if "-" in fields[0]:
                is_ours = len(fields) == 6 and fields[5].startswith(prefix) and not (is_read_only and "w" in fields[1])
                start, end = (int(part, 16) for part in fields[0].split("-"))
                here = (start, end - start) if is_ours else None
            elif here is not None and fields[0] == "Anonymous:" and fields[1] == "0":
                found.append(here)
    return found


@functools.cache
def _libc_madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return cast("Callable[[int, int, int], int]", function)


@functools.cache
def _share_arena() -> None:
    """Make one tight arena for all sessions of this process."""
    arena = ort.OrtArenaCfg(
        {"arena_extend_strategy": _EXTEND_AS_REQUESTED, "max_dead_bytes_per_chunk": _MAX_IDLE_BYTES}
    )
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, arena)


@contextlib.contextmanager
def _translated(what: str, blame: _Blame) -> Iterator[None]:
    """Turn onnxruntime's exceptions into ours, by the table ``blame``."""
    try:
        yield
    except tuple(foreign for kinds, _ in blame for foreign in kinds) as error:
        ours = next(ours for kinds, ours in blame if isinstance(error, kinds))
        raise ours(f"{what}: onnxruntime: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
