"""A table as a Parquet file that tells whether it is what was written."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

_DIGEST = b"inferno.digest"
# What reading raises of a file whose description of itself is damaged.
_DAMAGE = (LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, RuntimeError)


def write_checked(frame: pd.DataFrame, path: Path) -> None:
    """Write *frame*, with a digest of what readers will see of it."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    digest = _digest(table.to_pandas())
    marked = table.replace_schema_metadata({**(table.schema.metadata or {}), _DIGEST: digest})
    with path.open("wb") as file:  # Arrow opens no file whose name is not in UTF-8
        parquet.write_table(marked, file, write_page_checksum=True)


def read_checked(path: Path) -> pd.DataFrame:
    """Return what write_checked wrote to *path*. Raise OSError or ValueError if it is damaged: a
    bit that has flipped may leave a file that is read without a word, with other figures.
    """
    try:
        with path.open("rb") as file:
            table = parquet.read_table(file, page_checksum_verification=True)
        frame: pd.DataFrame = table.to_pandas()
    except _DAMAGE as error:
        raise ValueError(f"a damaged file ({type(error).__name__})") from None
    told = (table.schema.metadata or {}).get(_DIGEST)
    if told is None:
        raise ValueError("a file without a digest; delete it and repeat the sweep with --resume")
    if told != _digest(frame):
        raise ValueError("a damaged file: its digest is another one")
    return frame


def _digest(frame: pd.DataFrame) -> bytes:
    told = hashlib.sha256(repr([(name, str(kind)) for name, kind in frame.dtypes.items()]).encode())
    told.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return told.hexdigest().encode()
