"""Request traces: public formats and our own as arrays of instants and token counts."""

from twin.traces.formats import Format, TraceFormat, TraceReader, TraceUnit
from twin.traces.reading import read_trace
from twin.traces.trace import Columns, Spread, Trace

__all__ = [
    "Columns",
    "Format",
    "Spread",
    "Trace",
    "TraceFormat",
    "TraceReader",
    "TraceUnit",
    "read_trace",
]
