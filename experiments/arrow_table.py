"""Columns as an Arrow table, from their bytes: given a list or an array of numpy, pyarrow imports
pandas first, which takes as long as a quarter of an hour of a large system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from experiments.columns import Column, Columns


def arrow_table(columns: Columns, words: Mapping[str, Sequence[str]]) -> pa.Table:
    """Return *columns* as a table; those that have *words* are codes, of which each stands for one.
    NaN is nothing, as pandas has it.
    """
    return pa.Table.from_arrays(
        [
            _words(column, words[name]) if name in words else _values(column)
            for name, column in columns.items()
        ],
        names=list(columns),
    )


def _values(column: Column) -> pa.Array:
    if column.dtype == object:
        return _texts(column.tolist())
    assert column.dtype.kind in "iuf", "what Arrow packs in another way has other bytes"
    known = None
    if column.dtype.kind == "f":
        known = pa.py_buffer(np.packbits(~np.isnan(column), bitorder="little"))
    buffers = [known, pa.py_buffer(np.ascontiguousarray(column))]
    return pa.Array.from_buffers(pa.from_numpy_dtype(column.dtype), len(column), buffers)


def _words(codes: Column, words: Sequence[str]) -> pa.DictionaryArray:
    # As narrow as pandas makes them.
    few = np.ascontiguousarray(codes, dtype=np.min_scalar_type(-len(words)))
    kind = pa.dictionary(pa.from_numpy_dtype(few.dtype), pa.large_string())
    buffers = [None, pa.py_buffer(few)]
    return pa.DictionaryArray.from_buffers(kind, len(few), buffers, _texts(words))


def _texts(texts: Sequence[str]) -> pa.Array:
    coded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, coded)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(coded))]
    return pa.Array.from_buffers(pa.large_string(), len(coded), buffers)
