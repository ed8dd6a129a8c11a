"""The cycles of a run, packed: each line comes out as it went in."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from random import Random

from experiments.cycle_lines import PackedLines
from experiments.scores.changes import Desired, add_desired
from experiments.scores.cuts import Cuts, add_cuts
from loop.controller import Controller
from loop.data import FixedData
from loop.drivers import SimDriver
from loop.policies import make_policy
from loop.records import record_text
from loop.testing.fakes import FakeBackend, ManualClock, server_view, system
from loop.types import CycleRecord, Decision, Target, Why, WhyKind, known_older
from tests.loop.sim_worlds import sim_world
from tests.loop.test_controller import Same

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


def test_lines_of_a_twin_that_is_looked_at_each_second_are_as_if_written_anew() -> None:
    """Between two scrapes only the ages of what is seen change, and only these are written."""
    world = sim_world(alpha=0.5, start_up_s=7.5)
    loop = Controller(
        backend=world.backend,
        policy=make_policy("slo"),
        data=FixedData(world.data),
        clock=ManualClock(step_s=0.01),
    )
    lines, texts = PackedLines(), []

    def tell(record: CycleRecord) -> None:
        lines.add(record)
        texts.append(record_text(record))

    driver = SimDriver(world.env, loop, period_s=1.0, on_record=tell)
    world.env.run(until=100.5)
    assert list(lines.texts()) == texts
    desired: dict[str, list[Desired]] = {}
    for text in texts:
        add_desired(desired, json.loads(text))
    assert lines.desired == desired
    seen = [record.seen for record in driver.records if record.seen]
    older = sum(known_older(now.servers, last.servers) for last, now in pairwise(seen))
    plans = [record.changes for record in driver.records]
    assert older > 60
    assert any(plans)


def test_what_was_cut_is_noted_as_the_lines_tell_it() -> None:
    """It was read from the lines again: of 27 servers that took as long as a tenth of the run."""
    backend = FakeBackend([server_view("s1"), server_view("s2")])
    kinds: list[WhyKind] = ["slo-itl", "capacity", "capacity", "slo-ttft", "capacity", "capacity"]
    lines, texts = PackedLines(), []
    for step, kind in enumerate(kinds):
        target = Target(server="s1", pools=backend.views["s1"].pools, why=Why(kind=kind))
        loop = Controller(
            backend=backend,
            policy=Same(decision=Decision(targets={"s1": target} if step < 5 else {})),
            data=FixedData(system()),
            clock=ManualClock(step_s=0.01),
        )
        record = loop.cycle(float(step))
        lines.add(record)
        texts.append(record_text(record))
    cuts: Cuts = {}
    for text in texts:
        add_cuts(cuts, json.loads(text))
    assert lines.cuts == cuts
    assert lines.cuts["s1"] == ([1.0, 3.0, 4.0, 5.0], [True, False, True, False])


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
