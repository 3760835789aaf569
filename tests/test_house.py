"""The rules of the house that no other tool checks: names, exports, what may be loaded where."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "host", "models", "export", "edge_agent", "aggregator", "deploy")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES}
TEXT_FILES = [*FILES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]

SERVICE_AND_TRAINING = (
    "torch",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "transformers",
    "peft",
    "sqlalchemy",
    "alembic",
    "iotcore",
)
ML_RUNTIME = ("numpy", "onnxruntime", "tokenizers")


def loaded_by(statement: str, suspects: tuple[str, ...]) -> list[str]:
    """Return which of ``suspects`` a fresh process has loaded after ``statement``."""
    script = f"import sys\n{statement}\nprint(*[name for name in {suspects!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    return done.stdout.split()


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 20


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Return the file's syntax: reading it is a hundred times faster than importing torch to look."""
    return ast.parse(path.read_text("utf-8"))


def bound_in(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that a module's statements bind."""
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name for alias in names)
            case ast.Assign(targets=targets):
                yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.If() | ast.Try():
                yield from bound_in(node.body + node.orelse)


def exports_of(path: Path) -> list[str]:
    """Return the names in a module's ``__all__``, none if it has no such list."""
    for node in tree_of(path).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return list(ast.literal_eval(value))
    return []


@pytest.mark.parametrize("path", FILES, ids=MODULES.get)
def test_a_modules_exports_are_what_it_says(path: Path) -> None:
    exported = exports_of(path)
    assert len(set(exported)) == len(exported)
    assert set(exported) - set(bound_in(tree_of(path).body)) == set()
    assert [name for name in exported if name.startswith("_")] == []


@pytest.mark.parametrize("path", [*FILES, ROOT / "edgefold.py"], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_takes_from_another_only_what_that_one_exports(path: Path) -> None:
    files = {module: file for file, module in MODULES.items()}
    inner = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and node.module in files
        for alias in node.names
        if f"{node.module}.{alias.name}" not in files and alias.name not in exports_of(files[node.module])
    ]
    assert inner == []


@pytest.mark.parametrize("path", FILES, ids=MODULES.get)
def test_a_module_begins_with_its_purpose(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)) is not None


def test_no_module_is_a_drawer() -> None:
    drawers = re.compile(r"(utils?|helpers?|common|manager|base|misc)")
    assert [str(path) for path in FILES if drawers.fullmatch(path.stem) or drawers.fullmatch(path.parent.name)] == []


def test_no_value_in_the_makefile_ends_in_a_space() -> None:
    # make takes the space before a comment into the value, and a path with it is a path to nothing
    assigned = re.compile(r"^[^\t#].*[:?+]?=.*\s(#.*)?$")
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if assigned.match(line) and "##" not in line] == []


def test_a_todo_names_an_issue() -> None:
    nameless = re.compile(r"\b(TODO|FIXME|XXX)\b(?!\(#\d+\))")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in TEXT_FILES
        if path != Path(__file__)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if nameless.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("path", [path for path in FILES if MODULES[path].startswith("protocol")], ids=MODULES.get)
def test_the_protocol_has_no_clock_no_socket_and_no_files(path: Path) -> None:
    forbidden = {
        "time",
        "datetime",
        "socket",
        "ssl",
        "os",
        "io",
        "pathlib",
        "tempfile",
        "subprocess",
        "threading",
        "random",
    }
    tree = tree_of(path)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} & forbidden == set()
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert calls & {"open", "print", "input", "eval", "exec"} == set()


def test_only_the_codec_the_noise_and_the_secure_sum_of_the_protocol_need_numpy() -> None:
    with_numpy = ("protocol.codec", "protocol.discrete_gaussian", "protocol.secure_sum.")
    names = [n for n in MODULES.values() if n.startswith("protocol") and not n.startswith(with_numpy)]
    names += ["protocol.secure_sum.messages"]
    assert loaded_by(f"import {', '.join(names)}", ML_RUNTIME) == []
    assert loaded_by("import protocol.codec", ("numpy",)) == ["numpy"]


def test_the_host_loads_no_runtime() -> None:
    with_numpy = {"host.arrays", "host.base_change", "host.dropout_masks"}
    names = [name for name in MODULES.values() if name.startswith("host") and name not in with_numpy]
    assert loaded_by(f"import {', '.join(names)}", ML_RUNTIME + SERVICE_AND_TRAINING) == []


def test_the_idle_agent_loads_neither_a_runtime_nor_numpy() -> None:
    modules = [
        name
        for name in MODULES.values()
        if name.startswith("edge_agent") and not name.startswith("edge_agent.trainer") and not name.endswith("__main__")
    ]
    assert "edge_agent.app" in modules
    assert loaded_by(f"import {', '.join(modules)}", ML_RUNTIME + SERVICE_AND_TRAINING) == []


def test_the_trainer_loads_no_training_framework_and_no_service() -> None:
    assert loaded_by("import edge_agent.trainer.jobs", SERVICE_AND_TRAINING) == []
    assert loaded_by("import edge_agent.trainer.__main__", ML_RUNTIME) == []


def test_the_front_door_loads_nothing_heavy() -> None:
    heavy = (*ML_RUNTIME, *SERVICE_AND_TRAINING, "rich", "paho", "cryptography")
    assert loaded_by("import edgefold", heavy) == []


def test_the_aggregator_loads_no_training_framework() -> None:
    run_when_imported = ("__main__", "migrations")
    modules = [n for n in MODULES.values() if n.startswith("aggregator") and not any(r in n for r in run_when_imported)]
    assert loaded_by(f"import {', '.join(modules)}", ("torch", "onnx", "transformers", "peft", "onnxruntime")) == []


@pytest.mark.parametrize(
    "page", [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"], ids=lambda path: path.name
)
def test_a_page_names_only_tests_and_pages_that_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"`(tests/[\w/]+(?:\.py)?)", text)
    linked = [link for link in re.findall(r"\]\(([\w./-]+?)(?:#[\w-]+)?\)", text) if "://" not in link]
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [link for link in linked if not (page.parent / link).exists()]
    assert missing == []
