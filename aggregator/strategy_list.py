"""What ``edgefold strategies`` prints: each strategy, its options and needs, read from the strategies."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from aggregator.core.strategies import STRATEGIES
from protocol.fields import plain

if TYPE_CHECKING:
    from aggregator.core.folding import Strategy

__all__ = ["described", "print_strategies"]


def print_strategies(*, as_json: bool) -> None:
    """Print all strategies, as a table or as JSON."""
    if as_json:
        found = {name: described(strategy) for name, strategy in STRATEGIES.items()}
        click.echo(json.dumps({"strategies": found}, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for head in ("strategy", "needs of devices", "bundle", "secure sum", "central dp", "engine adds", "source"):
        table.add_column(head, overflow="fold")
    for name, strategy in STRATEGIES.items():
        facts = described(strategy)
        table.add_row(
            name,
            facts["device"],
            facts["layout"],
            "yes" if facts["secure_sum"] else "no",
            "yes" if facts["central_dp"] else "no",
            facts["engine"],
            facts["source"],
        )
    Console().print(table)


def described(strategy: Strategy) -> dict[str, Any]:
    """Return the strategy's facts; an option without a default is None."""
    options = {field.name: _default(field) for field in dataclasses.fields(strategy.options)}
    needs = {field.name: getattr(strategy.needs, field.name) for field in dataclasses.fields(strategy.needs)}
    return {"title": strategy.title, "source": strategy.source, "options": options, **needs}


def _default(field: dataclasses.Field[Any]) -> Any:  # noqa: ANN401 - an option of any kind
    if field.default is not dataclasses.MISSING:
        return field.default
    return plain(field.default_factory()) if field.default_factory is not dataclasses.MISSING else None
