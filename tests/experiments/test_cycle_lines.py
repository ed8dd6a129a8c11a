"""The cycles of a run, packed: each line comes out as it went in."""

from __future__ import annotations

import json
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
