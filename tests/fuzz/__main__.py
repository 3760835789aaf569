"""``make fuzz``: search every target for a time, two at once, and print what came of it.

A finding is written to ``out/fuzz/found-TARGET-*``: put it into ``tests/fuzz/corpus/TARGET`` under a name that begins
with ``found-``, and mend the decoder; ``make test`` then asks for it for ever.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz import corpus

OUT: Final = Path("out/fuzz")
HANG_S: Final = 30  # of wall clock, for what the bound of processor time cannot end


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one search did."""

    name: str
    n_runs: int
    n_features: int
    n_kept: int
    findings: tuple[str, ...]
    is_done: bool


def main() -> int:
    """Return 1 if anything was found."""
    options = _options()
    names = options.targets or list(corpus.NAMES)
    OUT.mkdir(parents=True, exist_ok=True)
    print(f"{'target':<16}{'runs':>12}{'features':>10}{'inputs kept':>13}  findings")
    with ThreadPoolExecutor(options.workers) as pool:
        outcomes = []
        for outcome in pool.map(lambda name: _search(name, options.seconds, keep=options.keep), names):
            outcomes.append(outcome)
            found = ", ".join(outcome.findings) or ("none" if outcome.is_done else "the search itself failed")
            print(
                f"{outcome.name:<16}{outcome.n_runs:>12,}{outcome.n_features:>10,}{outcome.n_kept:>13,}  {found}",
                flush=True,
            )
    return int(any(one.findings or not one.is_done for one in outcomes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Search every decoder that takes outside bytes for findings.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one or more of {', '.join(corpus.NAMES)}")
    parser.add_argument("--seconds", type=int, default=300, help="how long each target is searched")
    parser.add_argument("--workers", type=int, default=2, help="how many are searched at once")
    parser.add_argument("--keep", action="store_true", help="put a part of what was kept into tests/fuzz/corpus")
    options = parser.parse_args()
    strangers = sorted(set(options.targets) - set(corpus.NAMES))
    if strangers:
        parser.error(f"no such target: {', '.join(strangers)}")
    return options


def _search(name: str, seconds: int, *, keep: bool) -> Outcome:
    kept, before = OUT / name, set(OUT.glob(f"found-{name}-*"))
    kept.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgefold-fuzz-") as seeds:
        for number, data in enumerate(corpus.target(name).seeds()):
            (Path(seeds) / str(number)).write_bytes(data)
        folders = [str(kept), seeds, *([str(corpus.FOLDER / name)] if corpus.kept(name) else [])]
        max_len = corpus.target(name).max_len
        said = _run(
            name, f"-max_total_time={seconds}", f"-max_len={max_len}", f"-artifact_prefix={OUT}/found-{name}-", *folders
        )
        (OUT / f"{name}.log").write_text(said.stderr, "utf-8")
        if keep:
            corpus.keep(name, kept)
    findings = tuple(sorted(str(path) for path in set(OUT.glob(f"found-{name}-*")) - before))
    progress = re.findall(r"#(\d+)\s.*?ft: (\d+)", said.stderr)
    n_runs, n_features = map(int, progress[-1]) if progress else (0, 0)
    n_kept = sum(1 for _ in kept.iterdir())
    return Outcome(
        name=name,
        n_runs=n_runs,
        n_features=n_features,
        n_kept=n_kept,
        findings=findings,
        is_done=said.returncode == 0,
    )


def _run(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz.search", name, f"-timeout={HANG_S}", "-rss_limit_mb=0", *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")


if __name__ == "__main__":
    sys.exit(main())
