"""``[fold]``: who adds the updates of a round."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from aggregator.fold_pool import MAX_WORKERS, n_cores
from protocol.errors import ConfigError
from protocol.fields import FieldError, Length, Range

if TYPE_CHECKING:
    from aggregator.blob_settings import ObjectPlace
    from aggregator.fold_engine import FoldEngine

__all__ = ["FoldSettings", "make_engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldSettings:
    """Whoever adds, the bytes are the same.

    Attributes:
        engine: ``local`` is the service's own process, ``workers`` are processes beside it, ``ray`` is a cluster;
            ``auto`` are processes for rounds of many updates of small adapters (``adapters.fold_auto``) where there are
            several cores and blobs are in a folder, else ``local``.
        workers: processes on this machine; 0: one for each core, with ``auto`` at most four.
        address: of the cluster, as ``ray start`` printed it; the service's machine must be a node of it.
        secret: a file that the service and every node of the cluster have at the same path; jobs, which hold the
            tasks' opening keys, and sums are encrypted under it. Made with mode 0600 if it is missing here.
    """

    engine: Literal["auto", "local", "workers", "ray"] = "auto"
    workers: Annotated[int, Range(0, MAX_WORKERS)] = 0
    address: Annotated[str, Length(1, 255)] | None = None
    secret: Annotated[str, Length(1, 4096)] | None = None

    def __post_init__(self) -> None:
        """Refuse a cluster that nobody can reach or trust."""
        if self.engine == "ray" and (self.address is None or self.secret is None):
            raise FieldError('fold: engine = "ray" needs address, as ray start printed it, and secret, a file')


def make_engine(settings: FoldSettings, place: Path | ObjectPlace) -> FoldEngine | None:
    """Return the engine that the settings describe; None where the service adds by itself.

    Raises:
        ConfigError: Ray is not installed, or the secret is no good (the user's fault).
    """
    match settings.engine:
        case "local":
            return None
        case "auto":
            return _auto(settings.workers, place)
        case "workers":
            from aggregator.adapters.fold_processes import ProcessFoldEngine  # noqa: PLC0415 - as below

            return ProcessFoldEngine(place, workers=settings.workers or n_cores())
        case "ray":
            from aggregator.adapters.fold_ray import RayFoldEngine  # noqa: PLC0415 - an extra

            if settings.address is None or settings.secret is None:
                raise ConfigError("fold: address and secret are missing")
            return RayFoldEngine(place, address=settings.address, secret=settings.secret)


def _auto(workers: int, place: Path | ObjectPlace) -> FoldEngine | None:
    from aggregator.adapters.fold_auto import MAX_AUTO_WORKERS, AutoFoldEngine  # noqa: PLC0415 - as above
    from aggregator.adapters.fold_processes import ProcessFoldEngine  # noqa: PLC0415

    # A worker of object storage is a client of it, and several times as large.
    if n_cores() < 2 or not isinstance(place, Path):
        return None
    return AutoFoldEngine(ProcessFoldEngine(place, workers=workers or min(n_cores(), MAX_AUTO_WORKERS)))
