"""Exports for device tiers: predicts, chooses, and writes one bundle a tier that share the files they can.

Laws: a tier's bundle is what ``export_bundle`` writes with the chosen options; files of equal content in the bundles of
one export are hard links of each other where the file system has them (weights of tiers with one precision always are).
The graph is traced once for the prediction without checkpointing, and once with it only if some tier needs that. With
``per_example`` a batch fits where both training graphs do.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import onnx_ir as ir

from export.adapt import Adapted, Options, adapt
from export.bundle import Exported, Watch, export_bundle, trace_all
from export.load import load
from export.lower import lower
from export.memory_plan import plan_memory, sizes_for
from export.products import absorb
from export.quantise import Precision
from export.tiers import Choice, Tier, choose
from protocol.bundle import MemoryPeak, TierFacts
from protocol.errors import ConfigError

__all__ = ["choose_all", "export_tiers", "share_files"]


def export_tiers(  # noqa: PLR0913 - as export_bundle
    model: str,
    options: Options,
    tiers: tuple[Tier, ...],
    out: Path,
    *,
    watch: Watch = lambda _: None,
    announce: Callable[[Adapted], None] = lambda _: None,
    explain: Callable[[Choice], None] = lambda _: None,
) -> dict[str, Exported]:
    """Write a bundle for each tier: to ``out`` if there is one, otherwise to ``out/TIER``.

    Raises:
        ConfigError: a tier is too small for the model; and as ``export_bundle``.
    """
    choices = choose_all(model, options, tiers, watch=watch)
    done: dict[str, Exported] = {}
    if len(choices) > 1:
        _make_folder(out)
    for choice in choices:
        explain(choice)
        folder = out if len(choices) == 1 else out / choice.tier.name
        chosen = _options_for(options, choice)
        done[choice.tier.name] = export_bundle(model, chosen, folder, watch=watch, announce=announce)
        share_files([one.folder for one in done.values()])
    return done


def choose_all(model: str, options: Options, tiers: tuple[Tier, ...], *, watch: Watch) -> tuple[Choice, ...]:
    """Return what each tier gets.

    Raises:
        ConfigError: the model is no good, or a tier is too small for it.
    """
    watch("load")
    source = load(model, is_text=options.is_text)
    longest = options.max_tokens if options.is_text else None

    @cache
    def peaks(precision: Precision, checkpoint: bool) -> tuple[MemoryPeak, ...]:  # noqa: FBT001 - the port of ``choose``
        graphs, n_params = traced(checkpoint)
        plans = [plan_memory(one, sizes_for(longest), n_params=n_params, precision=precision) for one in graphs]
        return tuple(max(same, key=lambda one: one.peak_bytes) for same in zip(*plans, strict=True))

    @cache
    def traced(checkpoint: bool) -> tuple[list[ir.Model], int]:  # noqa: FBT001
        watch("adapt")
        adapted = adapt(source, options)
        watch("trace")
        train, _, single = trace_all(adapted, replace(options, checkpoint=checkpoint))
        watch("lower")
        models = [lower(step) for step in (train, single) if step is not None]
        for one in models:
            absorb(one.graph)
        return models, adapted.layout.n_params

    return tuple(choose(tier, peaks) for tier in tiers)


def _options_for(options: Options, choice: Choice) -> Options:
    facts = TierFacts(name=choice.tier.name, budget_bytes=choice.tier.budget_bytes, batch=choice.batch, seq=choice.seq)
    return replace(options, precision=choice.precision, checkpoint=choice.checkpoint, tier=facts)


def share_files(folders: list[Path]) -> None:
    """Let files of one name and content in these bundles be one file on the disk; without links nothing changes."""
    *earlier, last = folders
    for path in last.iterdir():
        for other in earlier:
            twin = other / path.name
            if twin.is_file() and twin.stat().st_size == path.stat().st_size and twin.read_bytes() == path.read_bytes():
                _link(twin, path)
                break


def _link(source: Path, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.link")
    with contextlib.suppress(OSError):  # no links on this file system: two files are as good
        os.link(source, temporary)
        temporary.replace(path)


def _make_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        message = f"--out {out} is a file; several tiers need a folder"
        raise ConfigError(message)
    out.mkdir(exist_ok=True)
