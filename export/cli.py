"""The commands ``edgefold export MODEL ...`` and ``edgefold export verify | inspect | merge BUNDLE``.

Laws: nothing heavy is imported before a command runs; standard output carries the result alone (one JSON object with
``--json``), progress goes to standard error; errors are left to the front door, which prints one line.
"""

import contextlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from export.cli_options import more_options
from protocol.errors import ConfigError
from protocol.fields import plain

if TYPE_CHECKING:
    from export.adapt import Adapted, Options
    from export.bundle import Exported
    from export.quantise import Precision
    from export.tiers import Choice
    from protocol.bundle import MemoryPeak

__all__ = ["export", "quiet"]

_TASKS = [
    "text-classification",
    "token-classification",
    "sentence-embedding",
    "causal-lm",
    "image-classification",
    "named-classes",
    "image-text",
    "forecasting",
    "quantile-forecasting",
]  # models.tasks names the same, but takes seconds to load
_TIERS = "pi-zero2, pi4, pi5, jetson-orin-nano, phone, laptop"
_PRECISIONS = ["fp32", "fp16", "int8", "nb8", "nb4"]  # export.quantise names the same
_PARTS = "lora, ia3, bitfit, soft-prompt, prefix, full, head"
_HEAD = "A task's new head is always trained."
# The passes in their order, with their share of MiniLM's time on two cores: what makes a bar honest.
_PASSES = {
    "load": 1,
    "adapt": 2,
    "trace": 22,
    "lower": 60,
    "pack": 3,
    "ort-training": 3,
    "litert": 120,
    "parity": 12,
    "seal": 1,
}


class _ModelOrCommand(click.Group):
    """A group whose unknown first word is the MODEL of the hidden command ``model``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = ["model", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Options may stand before MODEL; to the group they are not its own, so hand all of them on.
        if args and args[0] not in self.commands and args[0] not in {"--help", "-h"}:
            args = ["model", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_ModelOrCommand,
    invoke_without_command=False,
    subcommand_metavar="MODEL [OPTIONS] | verify | inspect | merge BUNDLE | diff A B",
)
def export() -> None:
    """Turn a foundation model into a bundle that devices can train.

    \b
    MODEL is a Hugging Face folder, a hub id (owner/name) or a packaged sample (minilm, dinov2-small, fracast):
      edgefold export minilm --task text-classification --labels 2 --adapter lora --rank 8 --out bundle
      edgefold export verify bundle
      edgefold export inspect bundle
      edgefold export merge bundle --adapter adapter.f32 --out merged
      edgefold export diff bundle other
    All options: edgefold export model --help
    """  # noqa: D301 - \b is click's mark for a paragraph kept as it is


@export.command(name="model")
@click.argument("model")
@click.option("--task", type=click.Choice(_TASKS), default=_TASKS[0], show_default=True)
@click.option("--labels", type=int, help="How many labels the task has.")
@click.option("--label-names", help="Names of the labels in their order, joined by commas, in place of --labels.")
@click.option("--adapter", default="lora", show_default=True, help=f"Parts joined by +: {_PARTS}. {_HEAD}")
@click.option("--rank", type=int, default=8, show_default=True, help="Inner width of each LoRA pair.")
@click.option("--alpha", type=float, default=16.0, show_default=True, help="LoRA's scale is alpha / rank.")
@click.option("--rslora", is_flag=True, help="Let LoRA's scale be alpha / sqrt(rank).")
@click.option("--prompt-tokens", type=int, default=8, show_default=True, help="Virtual tokens of a prompt or prefix.")
@click.option("--targets", default="auto", show_default=True, help="Layers to adapt, for instance query,value.")
@click.option("--max-tokens", type=int, default=128, show_default=True, help="The longest text a device may train on.")
@click.option(
    "--engines", default="portable", show_default=True, help="portable, ort-training, litert; joined by commas."
)
@click.option("--litert-shapes", help="Shapes of LiteRT's signatures, such as 8x32,8x64. Default: 8 x --max-tokens.")
@click.option(
    "--quantize",
    type=click.Choice(_PRECISIONS),
    default="fp32",
    show_default=True,
    help="How the frozen weights are stored; nb8 and nb4 have one scale for 32 values.",
)
@click.option("--tier", help=f"Choose --quantize and --checkpoint for devices, several joined by commas: {_TIERS}.")
@click.option("--checkpoint", is_flag=True, help="Compute layers again in the backward: less memory, more time.")
@more_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws the head and LoRA's A.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The bundle's folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def model_command(  # noqa: PLR0913 - a command's options are its arguments
    *,
    model: str,
    task: str,
    labels: int | None,
    label_names: str | None,
    adapter: str,
    rank: int,
    alpha: float,
    rslora: bool,
    prompt_tokens: int,
    targets: str,
    max_tokens: int,
    engines: str,
    litert_shapes: str | None,
    quantize: str,
    checkpoint: bool,
    tier: str | None,
    seed: int,
    out: Path,
    as_json: bool,
    **more: Any,  # noqa: ANN401 - export.cli_options
) -> None:
    """Write a bundle of MODEL; refuse to if its graphs do not agree with PyTorch."""
    quiet()
    with _named_extra():
        from export.adapt import Options  # noqa: PLC0415 - torch takes seconds
        from export.bundle import export_bundle  # noqa: PLC0415
        from export.engines import read_buckets  # noqa: PLC0415

    names = _names(label_names or "")
    options = Options(
        task=task,
        n_labels=len(names) if names and labels is None else labels,
        label_names=names,
        adapter=adapter,
        rank=rank,
        alpha=alpha,
        rslora=rslora,
        targets=() if targets == "auto" else _names(targets),
        n_virtual=prompt_tokens,
        max_tokens=max_tokens,
        checkpoint=checkpoint,
        precision=cast("Precision", quantize),
        seed=seed,
        **more,
    )
    started = time.monotonic()
    if tier is not None:
        if engines != "portable":
            message = "--tier writes bundles for the engine portable only: the memory plan is of its graphs"
            raise ConfigError(message)
        _export_tiers(model, options, tier, out, as_json=as_json)
        return
    with _progress() as watch:
        done = export_bundle(
            model,
            options,
            out,
            engines=tuple(dict.fromkeys(_names(engines))),
            buckets=read_buckets(litert_shapes, options.max_tokens) if litert_shapes else None,
            watch=watch,
            announce=_announce,
        )
    _show(done, seconds=time.monotonic() - started, as_json=as_json)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _export_tiers(model: str, options: "Options", text: str, out: Path, *, as_json: bool) -> None:
    """Write a bundle for each tier and say why it is as it is."""
    from export.tiered import export_tiers  # noqa: PLC0415 - torch takes seconds
    from export.tiers import tiers_of  # noqa: PLC0415

    if options.precision != "fp32" or options.checkpoint:
        message = "--tier chooses --quantize and --checkpoint itself; give one or the other"
        raise ConfigError(message)
    tiers, reasons = tiers_of(text), []

    def explain(choice: "Choice") -> None:
        reasons.append(choice.reason)
        click.echo(choice.reason, err=True)

    started = time.monotonic()
    with _progress() as watch:
        done = export_tiers(model, options, tiers, out, watch=watch, announce=_announce, explain=explain)
    seconds = time.monotonic() - started
    if not as_json:
        for one in done.values():
            _show(one, seconds=seconds, as_json=False)
        return
    facts = {
        name: {"id": one.id, "folder": str(one.folder), "bytes": one.n_bytes, "reason": reason}
        for (name, one), reason in zip(done.items(), reasons, strict=True)
    }
    click.echo(json.dumps({"tiers": facts, "seconds": round(seconds, 1)}))


@export.command(name="verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def verify_command(*, bundle: Path, as_json: bool) -> None:
    """Check a bundle's files and repeat its first training steps with this machine's runtime; needs no torch."""
    from export.verify import verify  # noqa: PLC0415 - numpy and the trainer's launcher

    found = verify(bundle)
    if as_json:
        facts = {"ok": True, "id": found.id, "files": found.n_files, "bytes": found.n_bytes, "steps": found.steps}
        facts |= {"engines": found.engines, "skipped": found.skipped}
        click.echo(json.dumps({**facts, "max_relative_loss_error": found.max_relative_loss_error}))
        return
    click.echo(f"bundle {found.id[:12]}: {found.n_files} files, {found.n_bytes / 1e6:.1f} MB, all as the manifest says")
    for name, error in found.engines.items():
        click.echo(f"{name}: {found.steps} training steps here agree with PyTorch: loss within {error:.1e}")
    for name, why in found.skipped.items():
        click.echo(f"{name}: not run here: {why}")


@export.command(name="inspect")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def inspect_command(*, bundle: Path, as_json: bool) -> None:
    """Show what a bundle holds: graphs, operators, the adapter by role and layer, files."""
    with _named_extra():
        from export.inspect import inspect  # noqa: PLC0415 - onnx

    found = inspect(bundle)
    if as_json:
        click.echo(json.dumps(plain(found)))
        return
    manifest = found.manifest
    click.echo(f"bundle {found.id[:12]}: {manifest.task.kind} on {manifest.model.source} ({manifest.model.family})")
    click.echo(f"adapter {manifest.adapter.kind}: {manifest.adapter.n_params:,} parameters")
    for layer, roles in found.layers.items():
        sizes = ", ".join(f"{role} {size:,}" for role, size in roles.items())
        click.echo(f"  {'no layer' if layer == '-' else f'layer {layer}'}: {sizes}")
    for graph in found.graphs:
        click.echo(f"{graph.engine} {graph.file}: {sum(graph.operators.values())} operators")
        for arrow, values in (("<-", graph.inputs), ("->", graph.outputs)):
            click.echo(f"  {arrow} " + ", ".join(f"{name} [{', '.join(sizes)}]" for name, sizes in values.items()))
        click.echo("  " + ", ".join(f"{name} {n}" for name, n in graph.operators.items()))
    again = ", layers computed again" if manifest.checkpointed else ""
    click.echo(f"frozen weights {manifest.precision or 'fp32'}{again}")
    if manifest.tier is not None:
        tier = manifest.tier
        shape = f"{tier.batch}" + (f" x {tier.seq} tokens" if tier.seq else "")
        click.echo(f"tier {tier.name}: batch {shape} within {tier.budget_bytes / 2**20:.0f} MB")
    for line in _memory_lines(manifest.memory or ()):
        click.echo(line)
    for name, facts in manifest.files.items():
        click.echo(f"{facts.bytes:>12,}  {facts.sha256[:12]}  {name}")


@export.command(name="merge")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--adapter", type=click.Path(path_type=Path), required=True, help="The trained adapter, raw float32.")
@click.option("--model", help="The model that the bundle was made of; by default what its manifest names.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def merge_command(*, bundle: Path, adapter: Path, model: str | None, out: Path, as_json: bool) -> None:
    """Merge an adapter into its base: a Hugging Face folder and an ONNX inference model of the same logits."""
    quiet()
    with _named_extra():
        from export.merge import merge  # noqa: PLC0415 - torch takes seconds

    done = merge(bundle, adapter, out, model=model)
    if as_json:
        click.echo(json.dumps(plain(done)))
        return
    click.echo(f"bundle {done.bundle_id[:12]} with adapter {done.adapter_sha256[:12]} in {out}")
    if done.folder_error is None:
        click.echo(f"no Hugging Face folder: {done.no_folder_why}; the ONNX model has it inside")
    else:
        click.echo(f"Hugging Face folder: logits within {done.folder_error:.1e} of the adapter's")
    click.echo(f"ONNX model: logits within {done.onnx_error:.1e}")


@export.command(name="diff")
@click.argument("left", type=click.Path(path_type=Path))
@click.argument("right", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the differences as one JSON object.")
def diff_command(*, left: Path, right: Path, as_json: bool) -> None:
    """Show in what two bundles differ: facts, operators, files."""
    with _named_extra():
        from export.differences import differences  # noqa: PLC0415 - onnx

    found = differences(left, right)
    if as_json:
        facts = [{"where": one.where, "left": one.left, "right": one.right} for one in found]
        click.echo(json.dumps({"equal": not found, "differences": facts}))
        return
    for one in found:
        click.echo(f"{one.where}: {one.left} | {one.right}")
    click.echo(f"{len(found)} differences" if found else "no difference")


def _memory_lines(peaks: "Sequence[MemoryPeak]") -> list[str]:
    """Return the memory plan as a table: a line a batch, a column a length."""
    lengths = list(dict.fromkeys(peak.seq for peak in peaks))
    if not lengths:
        return []
    table = {(peak.batch, peak.seq): f"{peak.peak_bytes / 2**20:>7.0f}" for peak in peaks}
    head = "trainer's peak in MB, predicted; tokens: " + " ".join(f"{seq or '-':>7}" for seq in lengths)
    width = len(head) - 8 * len(lengths)
    batches = dict.fromkeys(peak.batch for peak in peaks)
    rows = [f"  batch {batch}".ljust(width) + " ".join(table.get((batch, s), "") for s in lengths) for batch in batches]
    return [head, *rows]


def _announce(adapted: "Adapted") -> None:
    n_params = adapted.layout.n_params
    click.echo(
        f"{adapted.family}, {adapted.n_parameters / 1e6:.1f} M parameters; devices train {n_params:,} "
        f"({_by_part(adapted)})",
        err=True,
    )
    click.echo(
        f"an update is {4 * n_params / 1e3:.0f} kB as float32, about {n_params * 1.07 / 1e3:.0f} kB as int8", err=True
    )


def _by_part(adapted: "Adapted") -> str:
    """Return how many parameters each role has: where an adapter's size comes from."""
    sizes: dict[str, int] = {}
    for slot in adapted.layout.tensors:
        name = f"lora on {', '.join(adapted.recipe.targets)}" if slot.role in {"lora_A", "lora_B"} else slot.role
        sizes[name] = sizes.get(name, 0) + slot.n_values
    return "; ".join(f"{name} {size:,}" for name, size in sizes.items())


def _show(done: "Exported", *, seconds: float, as_json: bool) -> None:
    report = done.report
    facts = {
        "id": done.id,
        "n_params": done.manifest.adapter.n_params,
        "bytes": done.n_bytes,
        "seconds": round(seconds, 1),
        "parity": {
            "steps": report.steps,
            "max_relative_loss_error": report.max_relative_loss_error,
            "update_error": report.update_error,
            "logits_error": report.logits_error,
        },
        "engines": {name: asdict(apart) for name, apart in report.by_engine.items()},
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"bundle {done.id[:12]} in {done.folder}: {done.n_bytes / 1e6:.1f} MB, {seconds:.0f} s")
    for name, apart in report.by_engine.items():
        click.echo(
            f"{name}: parity with {report.reference} over {report.steps} steps: loss {apart.loss:.1e}, "
            f"update {apart.update:.1e}, logits {apart.logits:.1e}"
        )


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show the pass that runs; on a pipe, a line a pass."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<8}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task("", total=sum(_PASSES.values()))
        names = list(_PASSES)

        def watch(name: str) -> None:
            # A pass that comes again (several tiers) sets the bar back, which is what happens.
            bar.update(row, description=name, completed=sum(_PASSES[n] for n in names[: names.index(name)]))
            if not console.is_terminal:
                click.echo(f"export: {name}", err=True)

        yield watch


@contextlib.contextmanager
def _named_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed; run: pip install 'edgefold[export]'"
        raise ConfigError(message) from error


def quiet() -> None:
    """Silence what the exporter's libraries say about themselves; their errors still come."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "transformers", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
