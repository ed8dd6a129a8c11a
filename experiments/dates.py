"""Dates as records and options write them."""

from __future__ import annotations

from datetime import UTC, datetime


def date_of(text: str) -> datetime:
    """Return the date that *text* says in ISO form; without a zone it is UTC, wherever it is read.
    Raise ValueError or TypeError if it says none.
    """
    date = datetime.fromisoformat(text)
    return date if date.tzinfo else date.replace(tzinfo=UTC)
