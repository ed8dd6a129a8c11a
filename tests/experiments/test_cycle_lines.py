"""The cycles of a run, packed: each line comes out as it went in."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from random import Random

from experiments.cycle_lines import PackedLines
from loop.controller import Controller
from loop.data import FixedData
from loop.policies import make_policy
from loop.records import record_text
from loop.testing.fakes import FakeBackend, ManualClock, server_view, system

COUNT = 340


def test_packed_lines_come_out_as_they_went_in() -> None:
    """Lines are packed many together, and read one by one, in any order, also while more come."""
    backend = FakeBackend([server_view(), server_view("s2")])
    loop = Controller(
        backend=backend,
        policy=make_policy("static"),
        data=FixedData(system()),
        clock=ManualClock(step_s=0.01),
    )
    lines, texts = PackedLines(), []
    for step in range(COUNT):
        # Long ones and many fill a block.
        long = 300_000 if step in (5, 6, 20) else 1
        record = replace(loop.cycle(float(step)), warnings=(f"ä {step // 3}" * long,))
        lines.add(record)
        texts.append(record_text(record))
        assert lines[-1] == json.loads(texts[-1])
    assert list(lines.texts()) == texts
    order = Random(1).sample(range(COUNT), 60)
    assert [lines[place] for place in order] == [json.loads(texts[place]) for place in order]
    for some in (slice(4, 8), slice(-3, None), slice(0, COUNT, 97)):
        assert lines[some] == [json.loads(text) for text in texts[some]]


def test_lines_of_many_servers_are_kept_and_read_together() -> None:
    """What a thousand servers are is megabytes a line, and hardly anything of it changes: each line
    was packed by itself, and all lines of a block were made to read one of them.
    """
    backend, rng = FakeBackend([server_view()]), Random(1)
    loop = Controller(
        backend=backend,
        policy=make_policy("static"),
        data=FixedData(system()),
        clock=ManualClock(step_s=0.01),
    )
    records, lines, size = [], PackedLines(), 600_000
    for step in range(24):
        if step % 12 == 0:
            long = "".join(rng.choices("abcdefgh", k=size))
            backend.views["s1"] = server_view(load_source=long)
        records.append(loop.cycle(float(step)))
    tracemalloc.start()
    try:
        for record in records:
            lines.add(record)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        cycles = [lines[step]["cycle"] for step in range(0, 24, 8)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cycles == [record.cycle for record in records[::8]]
    assert kept < 8 * size
    assert peak < kept + 16 * size
