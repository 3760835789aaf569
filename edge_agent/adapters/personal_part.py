"""The part of a task's adapter that was trained here and stays here: a flat delta beside the global adapter.

    personal-<task>.f32    raw float32 [n_params], added to the global adapter when this device predicts
    personal-<task>.json   what it was trained on top of, and how it did

Laws: never sent, and read by no code that sends; it belongs to one bundle, and whoever writes a new one removes the
facts first and writes them last, so that facts always tell of the vector beside them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from host.durable import read_bytes, remove, write_bytes
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.errors import StorageError
from protocol.fields import FieldError, Hex, Name, Range, plain, structure

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PersonalFacts", "facts_file", "keep_personal", "personal_facts", "personal_file", "remove_personal"]

_MAX_FACTS_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalFacts:
    """What a personal part was made of; accuracies are fractions of the same examples that it did not train on."""

    task: Name
    bundle_id: Hex
    version: Annotated[int, Range(0, 2**31)]  # of the global adapter below it
    n_examples: Annotated[int, Range(1, 10**9)]
    n_exam: Annotated[int, Range(1, 10**9)]
    global_accuracy: Annotated[float, Range(0, 1)]
    personal_accuracy: Annotated[float, Range(0, 1)]
    unix_s: Annotated[float, Range(0, 1e12)]


def personal_file(folder: Path, task: str) -> Path:
    """Return where the personal part of ``task`` is, if there is one."""
    return folder / f"personal-{task}.f32"


def keep_personal(folder: Path, vector: Path, facts: PersonalFacts) -> None:
    """Make the trained ``vector`` (raw float32) the task's personal part."""
    remove(facts_file(folder, facts.task))
    write_bytes(personal_file(folder, facts.task), read_bytes(vector, max_bytes=MAX_MESSAGE_BYTES))
    write_bytes(facts_file(folder, facts.task), json.dumps(plain(facts)).encode())


def personal_facts(folder: Path, task: str) -> PersonalFacts | None:
    """Return what the task's personal part was made of; None if there is none, or its facts are damaged."""
    try:
        data = read_bytes(facts_file(folder, task), max_bytes=_MAX_FACTS_BYTES)
        return structure(PersonalFacts, json.loads(data), lenient_floats=True)
    except (FileNotFoundError, StorageError, FieldError, ValueError, RecursionError):
        return None


def remove_personal(folder: Path, task: str) -> None:
    """Serve the global adapter alone from now on."""
    remove(facts_file(folder, task))
    remove(personal_file(folder, task))


def facts_file(folder: Path, task: str) -> Path:
    """Return where the facts of that part are; they change with it."""
    return folder / f"personal-{task}.json"
