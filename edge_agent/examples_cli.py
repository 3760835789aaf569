"""``edgefold agent examples``, ``label`` and ``forget``: the owner's hand on what the device keeps."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from edge_agent.cli_options import CONFIG, JSON

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.adapters.example_store import ExampleStore, Forgotten
    from edge_agent.config import AgentConfig
    from edge_agent.store_settings import StoreSettings

__all__ = ["examples", "forget", "label"]

_UNITS_S: Final = {"h": 3600, "d": 86_400, "w": 604_800}
_HELD: Final = (
    "Updates that were sent cannot be called back: rounds that were folded, and adapters made of them, may still hold "
    "something of these examples."
)


@click.command()
@CONFIG
@JSON
@click.option("--unlabelled", is_flag=True, help="List only examples that wait for a label.")
@click.option("--last", type=click.IntRange(0, 10_000), default=10, show_default=True, help="How many to list.")
def examples(config_path: Path, *, as_json: bool, unlabelled: bool, last: int) -> None:
    """Show how many examples this device keeps, and the newest of them by number, without their content."""
    _, _, store = _open(config_path)
    counts, newest = store.counts(), store.newest(last, unlabelled=unlabelled)
    if as_json:
        click.echo(json.dumps({"counts": asdict(counts), "newest": [asdict(one) for one in newest]}))
        return
    click.echo(
        f"{counts.n_train} to train on, {counts.n_replay} kept of earlier stretches, {counts.n_exam} for exams; "
        f"{counts.n_unlabelled} without a label; {counts.n_bytes} bytes sealed; stretch {counts.stretch}"
    )
    for one in newest:
        state = one.role if one.is_labelled else "no label"
        when = datetime.fromtimestamp(one.unix_s, tz=UTC).isoformat(sep=" ", timespec="seconds")
        click.echo(f"{one.id:>9}  {when}  {state:<9} {one.source}")


@click.command()
@click.argument("example_id", type=click.IntRange(1, 2**62))
@click.argument("value", metavar="LABEL", type=click.IntRange(0, 2**31))
@CONFIG
def label(example_id: int, value: int, config_path: Path) -> None:
    """Give example EXAMPLE_ID its LABEL, a number; it is learnt from the next time."""
    from edge_agent.local.endpoint import ask, read_port  # noqa: PLC0415 - --help needs none of this
    from edge_agent.local.intake import read_token  # noqa: PLC0415

    config, settings, store = _open(config_path)
    folder = config_path.parent / config.device.folder
    port, token = read_port(folder), read_token(folder)
    body = {"id": example_id, "label": value}
    # The local process tests the model on it first; without one, it is only kept.
    if port is None or token is None or ask(port, "POST", "/labels", body, bearer=token) is None:
        store.label(example_id, value, exam_every=settings.exam_every)
    click.echo(f"example {example_id} has label {value}")


@click.command()
@CONFIG
@JSON
@click.option("--before", help="Older than a date (2026-05-01) or an age (12h, 30d, 8w).")
@click.option("--all", "is_all", is_flag=True, help="Everything, and the key that it was sealed under.")
@click.option("--match-label", type=click.IntRange(0, 2**31), help="Those with this label.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(
    config_path: Path, *, before: str | None, is_all: bool, match_label: int | None, as_json: bool, yes: bool
) -> None:
    """Delete examples from this device for good, and say what updates of the past may still hold.

    What was derived from examples and lies here goes too: the personal part and the memories of earlier stretches.
    """
    from protocol.errors import ConfigError  # noqa: PLC0415

    if is_all == (before is not None or match_label is not None):
        raise ConfigError("say what to forget: --all, or --before, --match-label, or both of these")
    until_s = None if before is None else _time_of(before)
    if not yes:
        click.confirm("Delete these examples for good?", abort=True)
    config, _, store = _open(config_path)
    found = store.forget_all() if is_all else store.forget(before_unix_s=until_s, label=match_label)
    derived = _forget_derived(config_path.parent / config.device.folder, is_all=is_all)
    if as_json:
        click.echo(json.dumps({**asdict(found), "derived": derived}))
        return
    click.echo(f"forgotten: {found.n_examples} examples" + (", and their key" if is_all else ""))
    click.echo(f"removed here: {', '.join(derived) or 'nothing that was derived from them'}")
    click.echo(_still_held(found))


def _still_held(found: Forgotten) -> str:
    if not found.lessons:
        return "No update of this device was trained on them."
    rounds: dict[str, list[int]] = {}
    for task, round_ in found.lessons:
        rounds.setdefault(task, []).append(round_)
    where = "; ".join(f"{task}, rounds {', '.join(map(str, found))}" for task, found in rounds.items())
    return f"{_HELD} These may: {where}."


def _forget_derived(folder: Path, *, is_all: bool) -> list[str]:
    """Remove what was made of examples and lies on this device; return its names."""
    from edge_agent.lessons import forget_memories  # noqa: PLC0415
    from host.durable import remove  # noqa: PLC0415

    names = ["memories of earlier stretches"] if forget_memories(folder) else []
    patterns = {"personal-*.f32": "personal part", "personal-*.json": "personal part"}
    if is_all:
        patterns |= {"residual-*.f32": "what encodings rounded away", "kept-*.f32": "what a strategy kept here"}
    for pattern, name in patterns.items():
        for path in folder.glob(pattern):
            remove(path)
            names.append(name)
    return list(dict.fromkeys(names))


def _time_of(text: str) -> float:
    from protocol.errors import ConfigError  # noqa: PLC0415

    if (matched := re.fullmatch(r"(\d{1,5})([hdw])", text)) is not None:
        return time.time() - int(matched[1]) * _UNITS_S[matched[2]]
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--before {text!r}: expected a date such as 2026-05-01, or an age such as 30d") from error
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def _open(config_path: Path) -> tuple[AgentConfig, StoreSettings, ExampleStore]:
    from edge_agent.adapters.example_store import ExampleStore  # noqa: PLC0415
    from edge_agent.config import AgentConfig  # noqa: PLC0415
    from host.config import load  # noqa: PLC0415
    from protocol.errors import ConfigError  # noqa: PLC0415

    config: Any = load(AgentConfig, config_path)
    if config.store is None:
        raise ConfigError(f"{config_path}: this device has no [store]; its examples are the file data.train")
    return config, config.store, ExampleStore(config_path.parent / config.store.folder)
