"""What a person sees while an export runs: the pass that is running, as a bar, as lines, or as JSON lines.

Laws: everything goes to standard error, since standard output carries the result alone. With ``--json`` every line is
one JSON object with ``event``, one of

    {"event": "pass", "name": "lower", "does": "...", "done_fraction": 0.24, "seconds": 19.2}   a pass begins
    {"event": "model", "family": ..., "parameters": ..., "trained": ..., "roles": {...}, "update_bytes": {...}}
    {"event": "tier", "name": ..., "reason": ...}

``done_fraction`` is of the passes that this export will run, by their share of MiniLM's time; it goes back when several
tiers make a pass come again.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from export.adapt import Adapted
    from export.tiers import Choice

__all__ = ["PASSES", "Progress", "progress"]


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass of an export."""

    share: int  # of MiniLM's time on two cores, in seconds: what makes a bar honest
    does: str
    engine: str = "portable"  # it runs only for this engine


PASSES = {
    "load": _Pass(1, "reads the model"),
    "adapt": _Pass(2, "adds the adapter, rounds the frozen weights"),
    "trace": _Pass(22, "derives the backward"),
    "lower": _Pass(60, "translates to ONNX"),
    "pack": _Pass(3, "joins products, writes the weights"),
    "ort-training": _Pass(3, "lets onnxruntime-training derive its own backward", "ort-training"),
    "litert": _Pass(120, "translates to LiteRT", "litert"),
    "parity": _Pass(12, "trains 20 steps against PyTorch"),
    "seal": _Pass(1, "hashes the files"),
}


@dataclass(frozen=True, slots=True)
class Progress:
    """Told what an export does: the arguments ``watch``, ``announce`` and ``explain`` of the exporter."""

    watch: Callable[[str], None]
    as_json: bool

    def announce(self, adapted: "Adapted") -> None:
        """Say what will be trained, before the passes that take long."""
        n_params, roles = adapted.layout.n_params, _by_role(adapted)
        update_bytes = {"float32": 4 * n_params, "int8": round(1.07 * n_params)}
        if self.as_json:
            facts = {"family": adapted.family, "parameters": adapted.n_parameters, "trained": n_params}
            _say_json("model", **facts, roles=roles, update_bytes=update_bytes)
            return
        parts = "; ".join(f"{name} {size:,}" for name, size in roles.items())
        _say(f"{adapted.family}, {adapted.n_parameters / 1e6:.1f} M parameters; devices train {n_params:,} ({parts})")
        sizes = {name: f"{n_bytes / 1e3:.0f} kB" for name, n_bytes in update_bytes.items()}
        _say(f"an update is {sizes['float32']} as float32, about {sizes['int8']} as int8")

    def explain(self, choice: "Choice") -> None:
        """Say what a tier gets, and why."""
        if self.as_json:
            _say_json("tier", name=choice.tier.name, reason=choice.reason)
        else:
            _say(choice.reason)


@contextlib.contextmanager
def progress(engines: tuple[str, ...] = ("portable",), *, as_json: bool = False) -> Iterator[Progress]:
    """Show the pass that runs: a bar on a terminal, a line a pass elsewhere, JSON lines where they are asked for."""
    shares = {name: one.share for name, one in PASSES.items() if one.engine in {"portable", *engines}}
    if as_json:
        yield Progress(_json_watch(shares), as_json=True)
        return
    from rich.console import Console  # noqa: PLC0415 - not before a command runs

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Progress(lambda name: _say(f"export: {name}: {PASSES[name].does}"), as_json=False)
        return
    import rich.progress as rich  # noqa: PLC0415 - likewise

    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.TimeElapsedColumn())
    with rich.Progress(*columns, console=console, transient=True) as bar:
        row = bar.add_task("", total=sum(shares.values()))

        def watch(name: str) -> None:
            # A pass that comes again (several tiers) sets the bar back, which is what happens.
            bar.update(row, description=f"{name}: {PASSES[name].does}", completed=_before(name, shares))

        yield Progress(watch, as_json=False)


def _json_watch(shares: dict[str, int]) -> Callable[[str], None]:
    started = time.monotonic()

    def watch(name: str) -> None:
        done = round(_before(name, shares) / sum(shares.values()), 3)
        seconds = round(time.monotonic() - started, 1)
        _say_json("pass", name=name, does=PASSES[name].does, done_fraction=done, seconds=seconds)

    return watch


def _before(name: str, shares: dict[str, int]) -> int:
    names = list(shares)
    return sum(shares[one] for one in names[: names.index(name)])


def _by_role(adapted: "Adapted") -> dict[str, int]:
    """Return how many parameters each role has: where an adapter's size comes from."""
    sizes: dict[str, int] = {}
    for slot in adapted.layout.tensors:
        name = f"lora on {', '.join(adapted.recipe.targets)}" if slot.role in {"lora_A", "lora_B"} else slot.role
        sizes[name] = sizes.get(name, 0) + slot.n_values
    return sizes


def _say(line: str) -> None:
    click.echo(line, err=True)


def _say_json(event: str, **facts: object) -> None:
    click.echo(json.dumps({"event": event, **facts}), err=True)
