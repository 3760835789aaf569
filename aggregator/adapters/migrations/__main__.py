"""Upgrades one database and exits: ``python -m aggregator.adapters.migrations DATABASE``."""

from __future__ import annotations

import sys
from pathlib import Path

from aggregator.adapters.engines import postgres_of
from aggregator.adapters.sql_database import upgrade_database

if __name__ == "__main__":
    where = sys.argv[1]  # a password comes by the environment
    upgrade_database(postgres_of(where, password_file=None) if "://" in where else Path(where))
