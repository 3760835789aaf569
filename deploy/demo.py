"""``make demo``: four devices, each with its own kind of text, better one foundation model and send no sentence.

Workflow: data -> export -> fleet (live) -> baselines -> report. Everything it writes is under ``out/demo``; the bundle
and the data are used again by the next run.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click
from rich.console import Console

from deploy.baselines import Baselines, measure_baselines
from deploy.demo_privacy import Promise
from deploy.demo_report import Facts, build_report, write_report
from deploy.demo_view import FleetRecord, watch
from deploy.local import BrokerKind, FleetSpec, LocalFleet, Storm
from deploy.sum_comparison import compare_sums
from host.bundle_folder import Bundle, open_bundle
from host.durable import make_folder
from protocol.errors import BundleError, ConfigError, EdgefoldError
from protocol.plan import Codec, Optimizer, Plan

if TYPE_CHECKING:
    from deploy.demo_privacy import Level, Mode
    from models.sentiment import Splits

__all__ = ["DOMAINS", "PLAN", "export_bundle", "main", "prepare_data"]

DOMAINS: Final = ("tweets", "products", "movies", "editorials")
# One local epoch a round, batch 16, AdamW 1e-3: the settings of the reference run in the README, for every contender.
PLAN: Final = Plan(epochs=1, batch_size=16, max_tokens=64, optimizer=Optimizer(), codec=Codec(), seed=0)
_SEED: Final = 0
_CHAOS_EVERY_S: Final = (1.0, 5.0)
_N_KILLS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much the demo does."""

    n_train: int
    rounds: int
    n_test: int = 500


QUICK: Final = Scale(n_train=500, rounds=6)
FULL: Final = Scale(n_train=2000, rounds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the person asked for."""

    broker: BrokerKind
    out: Path
    rounds: int | None
    chaos: bool
    secure: bool
    promise: Promise


@click.command()
@click.option("--broker", type=click.Choice(["auto", "mosquitto", "embedded"]), default="auto", show_default=True)
@click.option("--full", is_flag=True, help="2,000 training examples a device and 10 rounds, instead of 500 and 6.")
@click.option("--chaos", is_flag=True, help="Kill a random process with SIGKILL every few seconds, twelve times.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
@click.option("--rounds", type=click.IntRange(1, 1000), help="Another number of rounds.")
@click.option("--dp", type=click.Choice(["central", "distributed"]), help="Who adds noise; distributed: the devices.")
@click.option("--epsilon", type=click.FloatRange(0.01, 1000), help="The budget of --dp, 8 if not given.")
@click.option("--secure", is_flag=True, help="Certificates, enrolment and mutual TLS; needs Mosquitto.")
@click.option("--privacy", type=click.Choice(["sealed", "secure-sum"]), default="sealed", show_default=True)
def main(  # noqa: PLR0913 - a command's options
    broker: str,
    out: Path,
    rounds: int | None,
    dp: str | None,
    epsilon: float | None,
    *,
    full: bool,
    chaos: bool,
    secure: bool,
    privacy: str,
) -> None:
    """Run the whole loop on this machine and write OUT/report.html."""
    promise = _promise(privacy, dp, epsilon)
    try:
        options = Options(
            broker=cast("BrokerKind", broker),
            out=out,
            rounds=rounds,
            chaos=chaos,
            secure=secure,
            promise=promise,
        )
        _demo(options, FULL if full else QUICK)
    except EdgefoldError as error:
        click.echo(f"demo: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("demo: stopped; the fleet has been ended", err=True)
        sys.exit(130)


def _demo(options: Options, scale: Scale) -> None:
    console, out, chaos = Console(), options.out, options.chaos
    started_s = time.monotonic()
    rounds = options.rounds or scale.rounds
    make_folder(out)
    _step(console, 1, "Data: four kinds of rated text, one for each device")
    splits = prepare_data(scale.n_train, scale.n_test)
    _step(console, 2, "Export: MiniLM (22.7M parameters) with LoRA and a classification head")
    bundle = export_bundle(out / "bundle")
    _step(console, 3, "Fleet: broker, aggregator and four agents as real processes on this machine")
    spec = FleetSpec(
        folder=out / "fleet",
        bundle=bundle.folder,
        devices={f"device-{name}": splits.train[name] for name in DOMAINS},
        sets=splits.test,
        plan=PLAN,
        rounds=rounds,
        broker=options.broker,
        keep_updates=True,
        secure=options.secure,
        http=True,
        **options.promise.fleet_fields(
            n_devices=len(DOMAINS), rounds=rounds, n_params=bundle.manifest.adapter.n_params
        ),
    )
    with LocalFleet(spec) as fleet:
        console.print(f"  watch it: {fleet.page_url()}", soft_wrap=True)
        storm = Storm(fleet, random.Random(), every_s=_CHAOS_EVERY_S, n_kills=_N_KILLS) if chaos else None  # noqa: S311
        record = watch(fleet, console, n_params=bundle.manifest.adapter.n_params, storm=storm)
    _verify(fleet)
    if options.promise.has_exact_sums:
        _compare(fleet, console)
    options.promise.show(fleet, n_params=bundle.manifest.adapter.n_params)
    if storm is not None:
        console.print(f"  killed: {', '.join(storm.victims)}; every update is in exactly one version")
    _step(console, 4, f"Baselines: each device alone, and all data in one place, {rounds} epochs each")
    baselines = measure_baselines(bundle, splits, plan=PLAN, epochs=rounds, folder=out / "baselines", console=console)
    _finish(
        console,
        out,
        _facts(bundle, scale, record, baselines, time.monotonic() - started_s, privacy=str(options.promise)),
    )


def prepare_data(n_train: int, n_test: int) -> Splits:
    """Return the four domains' files, fetched and written if they are not there yet."""
    from models.sentiment import fetch_sentiment, write_splits  # noqa: PLC0415 - after the first line on the screen

    archive = fetch_sentiment(Path(".cache/sentiment"))
    return write_splits(archive, Path(f"out/data/sentiment-{n_train}"), n_train=n_train, n_test=n_test, seed=_SEED)


def export_bundle(folder: Path) -> Bundle:
    """Return the demo's bundle; an intact one of an earlier run is used again.

    Raises:
        ConfigError: the export failed; its own message is on the screen.
    """
    try:
        return open_bundle(folder)
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = ["export", "minilm", "--task", "text-classification", "--labels", "2", "--adapter", "lora", "--rank", "8"]
    done = subprocess.run([sys.executable, "-m", "edgefold", *command, "--out", str(folder)], check=False)
    if done.returncode != 0:
        raise ConfigError(f"the export failed with exit code {done.returncode}")
    return open_bundle(folder)


def _verify(fleet: LocalFleet) -> None:
    """Fold every version again from the stored updates and compare, as an operator would."""
    command = ["task", "verify", fleet.spec.task, "--config", str(fleet.aggregator_config), "--json"]
    done = subprocess.run([sys.executable, "-m", "edgefold", *command], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise ConfigError(f"the versions do not follow from the stored updates: {done.stderr or done.stdout}")


def _promise(level: str, dp: str | None, epsilon: float | None) -> Promise:
    """Return what was asked for; a budget alone is central, and distributed noise brings secure sums with it."""
    mode = cast("Mode | None", dp or (None if epsilon is None else "central"))
    if mode == "central" and level != "sealed":
        raise click.UsageError("--dp central needs --privacy sealed; with --privacy secure-sum say --dp distributed")
    if mode == "distributed" and level != "secure-sum":
        click.echo("demo: distributed noise hides only sums, so this is --privacy secure-sum")
        level = "secure-sum"
    return Promise(level=cast("Level", level), mode=mode, epsilon=8.0 if epsilon is None else epsilon)


def _compare(fleet: LocalFleet, console: Console) -> None:
    """Say how the secure sums compare with the plain fold of the same deltas.

    Raises:
        ConfigError: a version is not the exact sum, or further off than the quantisation explains.
    """
    checks = compare_sums(fleet)
    bad = [one.version for one in checks if not one.is_good]
    if bad:
        raise ConfigError(f"versions {bad} are not the sums of what the devices put in")
    worst = max(checks, key=lambda one: one.largest_difference / one.bound)
    console.print(
        f"  secure sum: {len(checks)} versions are exactly the quantised sums of the kept deltas; from the plain fold "
        f"they differ by {worst.largest_difference:.2g} at most, {worst.bound:.2g} is the quantisation's bound"
    )


def _facts(
    bundle: Bundle, scale: Scale, record: FleetRecord, baselines: Baselines, wall_s: float, *, privacy: str
) -> Facts:
    manifest = bundle.manifest
    return Facts(
        model=f"{manifest.model.source}: {manifest.model.n_parameters:,} parameters, {manifest.adapter.kind} "
        f"rank {manifest.adapter.rank}, {manifest.adapter.n_params:,} trainable",
        data=f"four-domain sentiment (Hutto and Gilbert 2014), {scale.n_train} train and {scale.n_test} test a domain",
        float32_bytes=4 * manifest.adapter.n_params,
        full_model_bytes=4 * manifest.model.n_parameters,
        record=record,
        privacy=privacy,
        baselines=baselines,
        wall_s=wall_s,
    )


def _finish(console: Console, out: Path, facts: Facts) -> None:
    report = build_report(facts)
    write_report(out, report, console)
    console.print(f"\nReport: [bold]{out / 'report.html'}[/bold]  (numbers: {out / 'report.json'})")


def _step(console: Console, number: int, text: str) -> None:
    console.rule(f"[bold]{number}  {text}", align="left")


if __name__ == "__main__":
    main()
