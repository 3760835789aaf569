from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from deploy.toml_text import toml_text

keys = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=8)
scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=("C",)), max_size=20),
)
values = st.one_of(scalars, st.lists(st.integers(0, 9), max_size=4))
tables = st.recursive(
    st.dictionaries(keys, values, max_size=4),
    lambda inner: st.dictionaries(keys, st.one_of(values, inner, st.lists(inner, min_size=1, max_size=3)), max_size=4),
    max_leaves=8,
)


@given(tables)
def test_what_is_written_reads_back_the_same(table: dict[str, object]) -> None:
    assert tomllib.loads(toml_text(table)) == table
