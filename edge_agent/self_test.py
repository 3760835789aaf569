"""Tries a bundle on this machine before it is relied on: a trainer starts as a round would and scores two examples.

Laws: the examples are the device's own and nothing of the result leaves it; nothing is trained or written. It shows
that the engine loads the graphs here, within the trainer's limits; that they compute what PyTorch did is shown by
``edgefold export verify``, which takes more steps than a device should take before each new bundle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_agent.config import examples_path
from host.engines import choose_engine
from host.trainer_process import Launch, run_job
from protocol.jobs import EvaluateJob

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.config import AgentConfig
    from host.bundle_folder import Bundle

__all__ = ["try_bundle"]

_EXAMPLES: Final = 2


def try_bundle(bundle: Bundle, here: Path, config: AgentConfig, *, deadline_s: float) -> None:
    """Return if the bundle works here.

    Raises:
        EngineError: no trainer ran it (this machine's fault, or the bundle's).
        BundleError: its graphs cannot be loaded (its maker's fault).
        ConfigError: no engine is installed for it, or the device's examples do not suit it (the owner's fault).
    """
    settings = config.trainer
    job = EvaluateJob(
        bundle=str(bundle.folder),
        sets={"own": str(examples_path(here, config))},
        batch_size=1,
        max_examples=_EXAMPLES,
        engine=choose_engine(settings.engine, bundle.manifest.engines),
    )
    launch = Launch(nice=settings.nice, memory_limit_bytes=settings.memory_limit_mb << 20)
    run_job(job, deadline_s=deadline_s, launch=launch)
