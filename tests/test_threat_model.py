"""Each row of docs/threat-model.md names tests that exist, and each mutant a row and a place that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.mutations.table import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in (ROOT / "docs" / "threat-model.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| attacker")
]


def names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def files_of(name: str) -> list[Path]:
    path = ROOT / name
    return [path] if path.is_file() else sorted(path.rglob("test_*.py"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_a_row_names_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 4
    named = re.findall(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`(?: \(((?:`\w+`(?:, )?)+)\))?", row[3])
    assert named
    for file, test, words in named:
        known = set().union(*map(names_in, files_of(file)))
        assert known
        assert not test or test in known
        for word in re.findall(r"`(\w+)`", words):
            assert any(word in one for one in known), f"{file}: no test with {word!r} in its name"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_takes_a_defence_out_of_a_row_and_fits(mutant: Mutant) -> None:
    assert mutant.row in {row[1] for row in ROWS}
    assert (ROOT / mutant.file).read_text("utf-8").count(mutant.old) == 1
    for test in mutant.tests:
        file, name = test.split("::")
        assert name.split("[")[0] in names_in(ROOT / file)


def test_at_least_ten_rows_are_proved_by_mutation() -> None:
    assert len({mutant.row for mutant in MUTANTS}) >= 10
