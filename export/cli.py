"""The command ``edgefold export MODEL ...``, and the group of those on bundles (``export/bundle_commands.py``).

Laws: nothing heavy is imported before a command runs; standard output carries the result alone (one JSON object with
``--json``), progress goes to standard error (``export/progress.py``); errors are left to the front door, which prints
one line.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from export.bundle_commands import COMMANDS
from export.cli_options import more_options
from export.heavy import named_extra, quiet
from export.progress import progress
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from export.adapt import Options
    from export.bundle import Exported
    from export.quantise import Precision
    from export.tiers import Choice

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
def model_command(
    *,
    model: str,
    tier: str | None,
    engines: str,
    litert_shapes: str | None,
    out: Path,
    as_json: bool,
    **chosen: Any,  # noqa: ANN401 - click's
) -> None:
    """Write a bundle of MODEL; refuse to if its graphs do not agree with PyTorch."""
    quiet()
    with named_extra():
        from export.bundle import export_bundle  # noqa: PLC0415 - torch takes seconds
        from export.engines import read_buckets  # noqa: PLC0415

    options, names = _options(**chosen), tuple(dict.fromkeys(_names(engines)))
    started = time.monotonic()
    if tier is not None:
        if names != ("portable",):
            message = "--tier writes bundles for the engine portable only: the memory plan is of its graphs"
            raise ConfigError(message)
        _export_tiers(model, options, tier, out, as_json=as_json)
        return
    with progress(names, as_json=as_json) as shown:
        done = export_bundle(
            model,
            options,
            out,
            engines=names,
            buckets=read_buckets(litert_shapes, options.max_tokens) if litert_shapes else None,
            watch=shown.watch,
            announce=shown.announce,
        )
    _show(done, seconds=time.monotonic() - started, as_json=as_json)


def _options(
    *,
    labels: int | None,
    label_names: str | None,
    targets: str,
    prompt_tokens: int,
    quantize: str,
    **chosen: Any,  # noqa: ANN401 - checked by Options
) -> "Options":
    """Return what a person chose; what is not named here has the exporter's own name."""
    from export.adapt import Options  # noqa: PLC0415 - torch takes seconds

    names = _names(label_names or "")
    return Options(
        n_labels=len(names) if names and labels is None else labels,
        label_names=names,
        targets=() if targets == "auto" else _names(targets),
        n_virtual=prompt_tokens,
        precision=cast("Precision", quantize),
        **chosen,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _export_tiers(model: str, options: "Options", text: str, out: Path, *, as_json: bool) -> None:
    """Write a bundle for each tier and say why it is as it is."""
    from export.tiered import export_tiers  # noqa: PLC0415 - torch takes seconds
    from export.tiers import tiers_of  # noqa: PLC0415

    if options.precision != "fp32" or options.checkpoint:
        message = "--tier chooses --quantize and --checkpoint itself; give one or the other"
        raise ConfigError(message)
    tiers, reasons = tiers_of(text), list[str]()
    started = time.monotonic()
    with progress(as_json=as_json) as shown:

        def explain(choice: "Choice") -> None:
            reasons.append(choice.reason)
            shown.explain(choice)

        done = export_tiers(model, options, tiers, out, watch=shown.watch, announce=shown.announce, explain=explain)
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


for _command in COMMANDS:
    export.add_command(_command)
