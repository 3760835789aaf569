"""``make test-mutations``: take each defence out, in a copy, and see that the test which the threat model names fails.

Workflow: copy the tracked tree into a temporary folder -> all named tests must pass there -> for each mutant change its
one file, run its tests one by one, each of which must fail (an error while collecting does not count), change it back.
The working tree is only read.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.mutations.table import MUTANTS, Mutant

ROOT: Final = Path(__file__).parents[2]
_TESTS_FAILED: Final = 1  # pytest's exit status; 2 to 5 are usage, collection and its own errors


def main() -> int:
    """Return 1 if a defence can be taken out unnoticed."""
    mutants = _chosen()
    with tempfile.TemporaryDirectory(prefix="edgefold-mutations-") as folder:
        copy = Path(folder) / "tree"
        _copy(copy)
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        if (status := _pytest(copy, *tests)) != 0:
            print(f"the tests do not pass as the tree stands: pytest ended with {status}")
            return 1
        print(f"{'mutant':<18}{'outcome':<10}defence of the threat model, and the tests", flush=True)
        survivors = 0
        for mutant in mutants:
            missed = _missed_by(mutant, copy)
            survivors += bool(missed)
            print(f"{mutant.name:<18}{'SURVIVED' if missed else 'killed':<10}{mutant.row}")
            for test in mutant.tests:
                print(f"{'':<28}{'passed' if test in missed else 'failed'}  {test}", flush=True)
    print(f"{len(mutants) - survivors} of {len(mutants)} mutants were killed")
    return int(survivors > 0)


def _chosen() -> list[Mutant]:
    parser = argparse.ArgumentParser(description="Take defences out and see their tests fail.")
    parser.add_argument("names", nargs="*", metavar="MUTANT", help=", ".join(one.name for one in MUTANTS))
    names = parser.parse_args().names
    strangers = sorted(set(names) - {one.name for one in MUTANTS})
    if strangers:
        parser.error(f"no such mutant: {', '.join(strangers)}")
    return [one for one in MUTANTS if not names or one.name in names]


def _copy(to: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - the one on PATH
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def _missed_by(mutant: Mutant, copy: Path) -> set[str]:
    """Return the tests that pass without the defence."""
    path = copy / mutant.file
    whole = path.read_text("utf-8")
    path.write_text(whole.replace(mutant.old, mutant.new), "utf-8")
    try:
        return {test for test in mutant.tests if _pytest(copy, test) != _TESTS_FAILED}
    finally:
        path.write_text(whole, "utf-8")


def _pytest(copy: Path, *tests: str) -> int:
    # -B: a changed file of the same size and second would be taken from its compiled twin.
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, check=False, capture_output=True, text=True)
    if done.returncode not in (0, _TESTS_FAILED):
        print(done.stdout[-2000:], done.stderr[-1000:])
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
