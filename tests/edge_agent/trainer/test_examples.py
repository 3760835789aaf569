from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from edge_agent.trainer.examples import MAX_TEXT_CHARS, Example, read_examples
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "my-private-diary"
GOOD = '{"text": "fine", "label": 1}\n'


def read(tmp_path: Path, content: str | bytes, name: str = "data.jsonl", *, max_examples: int = 100) -> list[Example]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_examples(path, n_labels=2, max_examples=max_examples)


def test_jsonl_and_csv_give_the_same_examples(tmp_path: Path) -> None:
    expected = [Example("good, really", 1), Example("bad\nand\n\nlong", 0), Example("ünïcode 🙂", 1)]
    lines = "\n\n".join(json.dumps({"text": one.text, "label": one.label, "extra": 0}) for one in expected)
    assert read(tmp_path, lines) == expected
    rows = 'label,text\n1,"good, really"\n0,"bad\nand\n\nlong"\n 1 ,ünïcode 🙂\n'
    assert read(tmp_path, rows, "data.csv") == expected
    assert read(tmp_path, rows.replace("\n1", "\r\n1"), "DATA.CSV") == expected


def test_the_mark_with_which_spreadsheets_begin_a_file_is_no_part_of_it(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbftext,label\nx,1\n", "data.csv") == [Example("x", 1)]
    assert read(tmp_path, b"\xef\xbb\xbf" + GOOD.encode()) == [Example("fine", 1)]


def test_no_more_examples_are_read_than_asked_for(tmp_path: Path) -> None:
    assert len(read(tmp_path, GOOD * 10 + "not read", max_examples=10)) == 10


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    (one,) = read(tmp_path, json.dumps({"text": "x" * (MAX_TEXT_CHARS + 1), "label": 0}))
    assert len(one.text) == MAX_TEXT_CHARS


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (SECRET, "not JSON"),
        ('{"text": "' + SECRET, "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5000, "not JSON"),
        (f'["{SECRET}"]', "expected a text and an integer label"),
        (f'{{"text": "{SECRET}"}}', "expected a text and an integer label"),
        (f'{{"text": ["{SECRET}"], "label": 1}}', "expected a text and an integer label"),
        (f'{{"text": "{SECRET}", "label": "{SECRET}"}}', "expected a text and an integer label"),
        (f'{{"text": "{SECRET}", "label": 1.0}}', "expected a text and an integer label"),
        (f'{{"text": "{SECRET}", "label": true}}', "expected a text and an integer label"),
        (f'{{"text": "{SECRET}", "label": 2}}', "label is not one of 0 to 1"),
        (f'{{"text": "{SECRET}", "label": -1}}', "label is not one of 0 to 1"),
        (f'{{"text": "{SECRET} \\ud800", "label": 1}}', "not valid Unicode"),
        ('{"text": "' + SECRET * 100_000 + '", "label": 1}', "a line longer than"),
    ],
    ids=range(14),
)
def test_a_bad_line_of_jsonl_is_named_and_never_shown(tmp_path: Path, line: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as refused:
        read(tmp_path, GOOD + "\n" + line + "\n" + GOOD)
    assert "data.jsonl:3: " in str(refused.value)
    assert SECRET not in str(refused.value)
    assert len(str(refused.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (f"{SECRET}", "expected a text and an integer label"),
        (f"{SECRET},", "expected a text and an integer label"),
        (f"{SECRET},one", "expected a text and an integer label"),
        (f"{SECRET},7", "label is not one of 0 to 1"),
        (f"{SECRET}," + "1" * 10, "expected a text and an integer label"),
        ('"' + SECRET * 30_000 + '",1', "a line longer than"),
        ('"' + (SECRET + "\n") * 30_000 + '",1', "field larger than field limit"),
    ],
    ids=range(7),
)
def test_a_bad_row_of_csv_is_named_and_never_shown(tmp_path: Path, row: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as refused:
        read(tmp_path, "text,label\nfine,1\n" + row + "\n", "data.csv")
    assert "data.csv:" in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("data.txt", GOOD, "read from .jsonl or .csv"),
        ("data.jsonl", "", "has no examples"),
        ("data.csv", "text,label\n", "has no examples"),
        ("data.csv", "", "has no examples"),
        ("data.csv", "a,b\n1,2\n", "expected a text and an integer label"),
        ("data.jsonl", GOOD.encode() + b'{"text": "\xff"}', "not UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_a_config_error(tmp_path: Path, name: str, content: str | bytes, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        read(tmp_path, content, name)


def test_a_missing_file_or_a_folder_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such data file"):
        read_examples(tmp_path / "none.jsonl", n_labels=2, max_examples=1)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_examples(tmp_path / "folder.csv", n_labels=2, max_examples=1)
