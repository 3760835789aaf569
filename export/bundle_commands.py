"""The commands ``edgefold export verify | inspect | merge | diff``: of bundles that are there already.

Laws: as ``export/cli.py``, whose group they stand in.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from export.heavy import named_extra, quiet
from host.durable import write_bytes
from protocol.fields import plain

if TYPE_CHECKING:
    from export.inspect import Graph, Inspected
    from protocol.bundle import Manifest, MemoryPeak

__all__ = ["COMMANDS"]


@click.command(name="verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def verify_command(*, bundle: Path, as_json: bool) -> None:
    """Check a bundle's files and repeat its first training steps with this machine's runtime; needs no torch."""
    from export.verify import verify  # noqa: PLC0415 - numpy and the trainer's launcher

    found = verify(bundle)
    if as_json:
        facts = {"ok": True, "id": found.id, "files": found.n_files, "bytes": found.n_bytes, "steps": found.steps}
        facts |= {"engines": found.engines, "skipped": found.skipped}
        facts |= {} if found.examples is None else {"per_example": asdict(found.examples)}
        click.echo(json.dumps({**facts, "max_relative_loss_error": found.max_relative_loss_error}))
        return
    click.echo(f"bundle {found.id[:12]}: {found.n_files} files, {found.n_bytes / 1e6:.1f} MB, all as the manifest says")
    for name, error in found.engines.items():
        click.echo(f"{name}: {found.steps} training steps here agree with PyTorch: loss within {error:.1e}")
    if found.examples is not None:
        click.echo(f"single examples: their graph agrees with one at a time: norms within {found.examples.norm:.1e}")
    for name, why in found.skipped.items():
        click.echo(f"{name}: not run here: {why}")


@click.command(name="inspect")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), help="Write a page that draws it, and needs nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def inspect_command(*, bundle: Path, html: Path | None, as_json: bool) -> None:
    """Show what a bundle holds: graphs, operators, weights, the adapter by role and layer, memory, tiers, files."""
    with named_extra():
        from export.inspect import inspect  # noqa: PLC0415 - onnx

    found = inspect(bundle)
    if html is not None:
        from export.inspect_page import page  # noqa: PLC0415 - beside its use

        write_bytes(html, page(found).encode(), mode=0o644)
    if as_json:
        click.echo(json.dumps(plain(found)))
    elif html is not None:
        click.echo(f"bundle {found.id[:12]} is drawn in {html}")
    else:
        click.echo("\n".join(_lines(found)))


def _lines(found: "Inspected") -> Iterator[str]:
    """Yield what ``inspect`` prints, line by line."""
    manifest = found.manifest
    yield f"bundle {found.id[:12]}: {manifest.task.kind} on {manifest.model.source} ({manifest.model.family})"
    yield f"adapter {manifest.adapter.kind}: {manifest.adapter.n_params:,} parameters"
    for layer, roles in found.layers.items():
        sizes = ", ".join(f"{role} {size:,}" for role, size in roles.items())
        yield f"  {'no layer' if layer == '-' else f'layer {layer}'}: {sizes}"
    for graph in found.graphs:
        yield from _graph_lines(graph)
    again = ", layers computed again" if manifest.checkpointed else ""
    yield f"frozen weights {manifest.precision or 'fp32'}{again}"
    for name, one in found.weights.items():
        yield f"  {name:<24} {one.n_tensors:>5} tensors {one.n_values:>14,} values {one.bytes / 1e6:>9.2f} MB"
    yield from _memory_lines("trainer's peak in MB, predicted", manifest.memory or ())
    yield from _memory_lines("with a gradient for each example", manifest.memory_per_example or ())
    yield from _tier_lines(manifest)
    for name, facts in manifest.files.items():
        yield f"{facts.bytes:>12,}  {facts.sha256[:12]}  {name}"


def _graph_lines(graph: "Graph") -> Iterator[str]:
    if not graph.operators:
        yield f"{graph.engine} {graph.file}: {graph.bytes / 1e6:.1f} MB, of another runtime"
        return
    yield f"{graph.engine} {graph.file}: {sum(graph.operators.values())} operators"
    for arrow, values in (("<-", graph.inputs), ("->", graph.outputs)):
        yield f"  {arrow} " + ", ".join(f"{name} [{', '.join(sizes)}]" for name, sizes in values.items())
    yield "  " + ", ".join(f"{name} {n}" for name, n in graph.operators.items())


def _tier_lines(manifest: "Manifest") -> Iterator[str]:
    """Yield a line a tier: its budget, and the largest batch of the plan that stays within it."""
    from export.tiers import fitting  # noqa: PLC0415 - onnx, which the bundle took already

    if manifest.tier is not None:
        tier = manifest.tier
        shape = f"{tier.batch}" + (f" x {tier.seq} tokens" if tier.seq else "")
        yield f"made for {tier.name}: batch {shape} within {tier.budget_bytes / 2**20:.0f} MB"
    for one, peak in fitting(manifest.memory or ()):
        shape = "nothing fits"
        if peak is not None:
            shape = f"batch {peak.batch}" + (f" x {peak.seq} tokens" if peak.seq else "")
            shape += f", {peak.peak_bytes / 2**20:.0f} MB"
        yield f"  {one.name:<17} {one.budget_bytes / 2**20:>5.0f} MB: {shape}"


def _memory_lines(title: str, peaks: "Sequence[MemoryPeak]") -> list[str]:
    """Return a memory plan as a table: a line a batch, a column a length."""
    lengths = list(dict.fromkeys(peak.seq for peak in peaks))
    if not lengths:
        return []
    table = {(peak.batch, peak.seq): f"{peak.peak_bytes / 2**20:>7.0f}" for peak in peaks}
    head = f"{title}; tokens: " + " ".join(f"{seq or '-':>7}" for seq in lengths)
    width = len(head) - 8 * len(lengths)
    batches = dict.fromkeys(peak.batch for peak in peaks)
    rows = [f"  batch {batch}".ljust(width) + " ".join(table.get((batch, s), "") for s in lengths) for batch in batches]
    return [head, *rows]


@click.command(name="merge")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--adapter", type=click.Path(path_type=Path), required=True, help="The trained adapter, raw float32.")
@click.option(
    "--base-change",
    type=click.Path(path_type=Path),
    help="What the strategy added to the base weights, raw float32 (flora, fedex-lora).",
)
@click.option("--model", help="The model that the bundle was made of; by default what its manifest names.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def merge_command(
    *, bundle: Path, adapter: Path, base_change: Path | None, model: str | None, out: Path, as_json: bool
) -> None:
    """Merge an adapter into its base: a Hugging Face folder and an ONNX inference model of the same logits."""
    quiet()
    with named_extra():
        from export.merge import merge  # noqa: PLC0415 - torch takes seconds

    done = merge(bundle, adapter, out, model=model, base_change=base_change)
    if as_json:
        click.echo(json.dumps(plain(done)))
        return
    click.echo(f"bundle {done.bundle_id[:12]} with adapter {done.adapter_sha256[:12]} in {out}")
    if done.folder_error is None:
        click.echo(f"no Hugging Face folder: {done.no_folder_why}; the ONNX model has it inside")
    else:
        click.echo(f"Hugging Face folder: logits within {done.folder_error:.1e} of the adapter's")
    click.echo(f"ONNX model: logits within {done.onnx_error:.1e}")


@click.command(name="diff")
@click.argument("left", type=click.Path(path_type=Path))
@click.argument("right", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the differences as one JSON object.")
def diff_command(*, left: Path, right: Path, as_json: bool) -> None:
    """Show in what two bundles differ: facts, operators, files."""
    with named_extra():
        from export.differences import differences  # noqa: PLC0415 - onnx

    found = differences(left, right)
    if as_json:
        facts = [{"where": one.where, "left": one.left, "right": one.right} for one in found]
        click.echo(json.dumps({"equal": not found, "differences": facts}))
        return
    for one in found:
        click.echo(f"{one.where}: {one.left} | {one.right}")
    click.echo(f"{len(found)} differences" if found else "no difference")


COMMANDS = (verify_command, inspect_command, merge_command, diff_command)
