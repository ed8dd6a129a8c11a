"""Claims about a measured load: it is replayed to the request, and tokens follow their means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.load import ServerLoad, batches
from emulator.rates import Rates
from emulator.walk import Walk
from experiments.rates_file import read_rates, write_rates
from experiments.scenario import parse_scenario, server_loads
from twin.arrivals import CountedStream
from twin.spec import Server, SpecError

SERVER = Server(name="chat", model="m")
RULE = "load: [{rates: {file: load.csv}%s}]\nalpha: 0\nhours: 1\n"


def rates(*rows: tuple[float, float, float], repeat: bool = True) -> Rates:
    """Return a load of minutes: rate, tokens in and out."""
    rate, prompt, answer = np.array(rows).T
    times_s = 60.0 * np.arange(len(rows))
    return Rates(
        times_s=times_s,
        rates_rpm=rate,
        in_tokens=prompt,
        out_tokens=answer,
        end_s=60.0 * len(rows),
        repeat=repeat,
    )


def loads(folder: Path, measured: Rates, more: str = "", *, seed: int = 1) -> ServerLoad:
    write_rates(folder / "load.csv", {"chat": measured})
    return read_load(folder, RULE % more, seed=seed)


def read_load(folder: Path, text: str = RULE % "", *, seed: int = 1) -> ServerLoad:
    scenario = parse_scenario(text, name="t", source="t.yaml", base=folder)
    found = server_loads(scenario, servers=[SERVER], nominal={}, walk=Walk(alpha=0.0), seed=seed)
    return found[0]


def minutes(load: ServerLoad, count: int, *, interval_s: float = 60.0) -> list[int]:
    times_s = np.concatenate(
        [batch.times_s for batch in batches(load, interval_s=interval_s, until_s=60.0 * count)]
    )
    return np.bincount((times_s // 60.0).astype(int), minlength=count).tolist()


@pytest.mark.parametrize("interval_s", [60.0, 20.0, 45.0, 300.0])
def test_every_minute_has_as_many_requests_as_were_counted(
    tmp_path: Path, interval_s: float
) -> None:
    """However the emulator cuts its intervals; and after the end the load begins again."""
    counted = [3.0, 0.0, 17.0, 1.0, 0.0, 40.0]
    load = loads(tmp_path, rates(*((rate, 100.0, 50.0) for rate in counted)))
    found = minutes(load, 12, interval_s=interval_s)
    assert np.cumsum(found) == pytest.approx(np.cumsum([*counted, *counted]), abs=1)
    assert minutes(load, 12) == [*map(int, counted), *map(int, counted)]


def test_tokens_follow_the_means_of_their_minutes(tmp_path: Path) -> None:
    """The mix of an hour is no constant: prompts get longer at night."""
    load = loads(tmp_path, rates((4000, 100, 50), (4000, 900, 10)))
    first, second = batches(load, interval_s=60.0, until_s=120.0)
    assert first.prompt_tokens.mean() == pytest.approx(100, rel=0.05)
    assert second.prompt_tokens.mean() == pytest.approx(900, rel=0.05)
    assert second.output_tokens.mean() == pytest.approx(10, rel=0.05)


def test_seeds_draw_other_instants_of_the_same_counts(tmp_path: Path) -> None:
    """Paired seeds are to differ, and the load that was measured is not."""
    measured = rates((50, 100, 50), (20, 100, 50))
    one, other = (loads(tmp_path, measured, seed=seed) for seed in (1, 2))
    assert minutes(one, 2) == minutes(other, 2) == [50, 20]
    times = [next(iter(batches(load, interval_s=60.0))).times_s for load in (one, other)]
    assert not np.allclose(times[0], times[1])


def test_a_scale_makes_more_of_it(tmp_path: Path) -> None:
    """What if the load were half as much again."""
    load = loads(tmp_path, rates((40, 100, 50), (21, 100, 50)), ", scale: 1.5")
    assert minutes(load, 2) == [60, 31]


def test_without_repeat_the_last_minute_stays(tmp_path: Path) -> None:
    """As every other curve does."""
    load = loads(tmp_path, rates((4, 100, 50), (2, 100, 50)))
    assert minutes(load, 4) == [4, 2, 4, 2]
    once = read_load(tmp_path, RULE.replace("load.csv}", "load.csv, repeat: false}") % "")
    assert minutes(once, 4) == [4, 2, 2, 2]


@given(st.lists(st.floats(0.0, 50.0), min_size=1, max_size=20))
def test_counts_lose_and_gain_no_request(units: list[float]) -> None:
    """Fractions go on to the next stretch."""
    stream = CountedStream(np.random.default_rng(1))
    total, made = 0.0, 0
    for k, rate in enumerate(units):
        times_s = stream.until(float(k), k + 1.0, rate)
        assert ((times_s >= k) & (times_s < k + 1.0)).all()
        total, made = total + rate, made + len(times_s)
        assert abs(made - total) <= 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server,t_s,rate_rpm,in_tokens\nchat,0,1,1\n", "line 1: expected the columns"),
        ("chat,0,-1,5,5\n", "rate_rpm: expected a number >= 0, found '-1'"),
        ("chat,0,1,0,5\n", "in_tokens: expected a number > 0, found '0'"),
        ("chat,0,1,nan,5\n", "in_tokens: expected a number > 0, found 'nan'"),
        ("chat,0,1,5,5\nchat,0,1,5,5\n", "t_s: expected more than 0, found 0"),
        ("chat,60,1,5,5\n", "t_s: expected 0 in the first row of a server, found 60"),
        ("chat,0,1,5,5\n", "expected at least two rows of chat, found one"),
        ("other,0,1,5,5\nother,60,1,5,5\n", "rates: expected rows of chat, found none"),
        ("", "expected rows of server, t_s"),
        ("x" * 200_000, "load.csv: expected CSV, found field larger"),
    ],
)
def test_a_wrong_file_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    """People edit such files by hand."""
    header = "" if text.startswith("server") else "server,t_s,rate_rpm,in_tokens,out_tokens\n"
    (tmp_path / "load.csv").write_text(header + text)
    with pytest.raises(SpecError) as told:
        read_load(tmp_path)
    assert said in str(told.value)


def test_rates_exclude_other_loads(tmp_path: Path) -> None:
    """A rule says one load."""
    write_rates(tmp_path / "load.csv", {"chat": rates((1, 1, 1), (1, 1, 1))})
    with pytest.raises(SpecError, match="expected rates alone"):
        parse_scenario(RULE % ", users: 3", name="t", source="t.yaml", base=tmp_path)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """To six digits."""
    measured = rates((1.25, 100.5, 50), (0, 3, 1e5))
    write_rates(tmp_path / "load.csv", {"chat": measured, "code": measured})
    read = read_rates(tmp_path / "load.csv")
    assert list(read) == ["chat", "code"]
    assert read["code"].rates_rpm.tolist() == [1.25, 0.0]
    assert read["code"].out_tokens.tolist() == [50.0, 1e5]
    assert read["code"].end_s == 120.0
