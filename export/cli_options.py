"""Options of ``edgefold export MODEL`` that only some tasks or trainings have, as one decorator.

Laws: a command gets them as keyword arguments named like fields of ``export.adapt.Options``; nothing heavy is imported.
"""

from collections.abc import Callable
from typing import Any

import click

__all__ = ["more_options"]

_MORE = (
    click.option(
        "--context",
        type=int,
        help="Steps of a series that the model sees, in quantile-forecasting. Default: as it was pretrained.",
    ),
    click.option("--channels", type=int, help="Values of a step, each forecast for itself. Default: as pretrained."),
    click.option(
        "--dropout",
        type=float,
        default=0.0,
        show_default=True,
        help="How often a value is dropped in training, wherever the model has dropout and before each LoRA pair.",
    ),
    click.option(
        "--per-example",
        is_flag=True,
        help="Add a graph that clips each example by itself: plans with dp then train in batches, not one by one.",
    ),
)


def more_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``command`` with these options, in their order."""
    for option in reversed(_MORE):
        command = option(command)
    return command
