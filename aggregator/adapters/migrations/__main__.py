"""Upgrades one database and exits: ``python -m aggregator.adapters.migrations DATABASE``."""

from __future__ import annotations

import sys
from pathlib import Path

from aggregator.adapters.sql_database import upgrade_database

if __name__ == "__main__":
    upgrade_database(Path(sys.argv[1]))
