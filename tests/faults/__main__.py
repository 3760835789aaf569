"""``make test-faults``: 500 cuts of a device's power at random durable steps."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import click

from tests.faults.run import run


def main() -> None:
    """Print what happened; an AssertionError says what was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    began_s = time.monotonic()
    click.echo(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="edgefold-faults-") as folder:
        figures = run(Path(folder), kills=options.kills, seed=seed)
    click.echo(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items()))
    click.echo(f"nothing lost, nothing halved, nothing said in two ways; {time.monotonic() - began_s:.0f} s")


if __name__ == "__main__":
    main()
