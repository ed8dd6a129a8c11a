"""Request traces: public formats and our own as arrays of instants and token counts."""

from twin.traces.formats import TraceFormat, TraceUnit
from twin.traces.reading import read_trace
from twin.traces.trace import Spread, Trace

__all__ = ["Spread", "Trace", "TraceFormat", "TraceUnit", "read_trace"]
