"""Conversations in traces: what a turn shares with those before it is what the names of its blocks
say, and what the prefix cache of a replica finds.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.load import ServerLoad, batches
from emulator.trace import Replay
from emulator.walk import Walk
from twin.engine.port import make_plain
from twin.request import Request
from twin.spec import EngineSpec, LatencyModel
from twin.traces import Trace, read_trace
from twin.traces.trace import Columns, make_trace

BLOCK = 16
KINDS = ("goes on", "without its answer", "again", "anew")


class _Talk:
    """Turns with the tokens of their prompts and answers, so that what they share can be seen."""

    def __init__(self, turns: Sequence[tuple[int, str, int, int]]) -> None:
        fresh = count()
        last: dict[int, tuple[list[int], list[int], int]] = {}
        self.sessions: list[int] = []
        self.parents: list[int] = []
        self.prompts: list[list[int]] = []
        self.answers: list[list[int]] = []
        for row, (session, kind, new, out) in enumerate(turns):
            prompt, answer, parent = last.get(session, ([], [], -1))
            added = [next(fresh) for _ in range(new)]
            if kind == "goes on":
                prompt = prompt + answer + added
            elif kind == "without its answer":
                # Less than the answer was long, or it would be taken for it.
                prompt = prompt + (added[: len(answer) - 1] if answer else added)
            elif kind == "anew" or not prompt:
                prompt = added[: max(len(prompt) - 1, 1)] if prompt else added
            answer = [next(fresh) for _ in range(out)]
            last[session] = (prompt, answer, row)
            self.sessions.append(session)
            self.parents.append(parent)
            self.prompts.append(prompt)
            self.answers.append(answer)

    def shared(self, earlier: int, later: int) -> int:
        """Return the whole blocks that the prompt of one row shares with all of an earlier one that
        was computed: all but the last token of its answer.
        """
        text = self.prompts[earlier] + self.answers[earlier][:-1]
        pairs = zip(text, self.prompts[later], strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs))) // BLOCK

    def hashes(self, row: int) -> list[int]:
        """Return the names of the blocks of a prompt, the last of which is not whole, by what they
        and all before them hold.
        """
        prompt = self.prompts[row]
        ends = range(BLOCK, len(prompt) + BLOCK, BLOCK)
        return [hash(tuple(prompt[:end])) % 2**62 for end in ends]

    def columns(self, *, hashed: bool) -> Columns:
        blocks = [self.hashes(row) for row in range(len(self.prompts))]
        return Columns(
            times_s=np.arange(len(self.prompts), dtype=np.float64),
            prompt_tokens=np.array([len(each) for each in self.prompts], dtype=np.int32),
            output_tokens=np.array([len(each) for each in self.answers], dtype=np.int32),
            sessions=np.arange(len(blocks)) if hashed else np.array(self.sessions),
            parents=np.array(self.parents) if hashed else None,
            blocks=np.array([name for each in blocks for name in each]) if hashed else None,
            block_counts=np.array([len(each) for each in blocks], np.int32) if hashed else None,
        )


def _common(trace: Trace, earlier: int, later: int) -> int:
    """Return how many whole blocks the names say that two rows share."""
    first, second = trace.blocks_of(np.array([earlier, later]))
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    computed = trace.prompt_tokens[earlier] + trace.output_tokens[earlier] - 1
    return min(len(list(same)), int(min(computed, trace.prompt_tokens[later])) // BLOCK)


TURNS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(KINDS), st.integers(1, 70), st.integers(1, 60)),
    min_size=2,
    max_size=12,
)


@given(turns=TURNS)
def test_names_are_shared_where_tokens_are(turns: list[tuple[int, str, int, int]]) -> None:
    """Of any two turns of a conversation, and never of two conversations: a name too many would be
    a cache hit that no engine has.
    """
    talk = _Talk(turns)
    trace = make_trace("talk", talk.columns(hashed=False), spread="none")
    for later in range(len(turns)):
        for earlier in range(later):
            found = _common(trace, earlier, later) if trace.talks is not None else 0
            if talk.sessions[earlier] == talk.sessions[later]:
                assert found == talk.shared(earlier, later)
            else:
                assert found == 0


@given(turns=TURNS)
def test_hashes_of_a_turn_name_the_answer_before_it(
    turns: list[tuple[int, str, int, int]],
) -> None:
    """Traces hash prompts only; the answer is in the next one's."""
    talk = _Talk(turns)
    trace = make_trace("talk", talk.columns(hashed=True), spread="none", block_tokens=BLOCK)
    for later, earlier in enumerate(talk.parents):
        if earlier >= 0 and turns[later][1] == "goes on":
            found, shared = _common(trace, earlier, later), talk.shared(earlier, later)
            # A block that ends with the prompt is the same in both.
            assert found == shared


@pytest.mark.parametrize("hashed", [False, True])
def test_a_replica_finds_what_was_said_before(hashed: bool) -> None:
    """Prompt and answer of the turn before, whole blocks of them."""
    rng = np.random.default_rng(3)
    turns = [
        (session, "goes on", int(new), int(out))
        for session, new, out in zip(
            rng.integers(4, size=40), rng.integers(5, 90, 40), rng.integers(1, 90, 40), strict=True
        )
    ]
    talk = _Talk([(int(session), *rest) for session, *rest in turns])
    trace = make_trace("talk", talk.columns(hashed=hashed), spread="none", block_tokens=BLOCK)
    load = ServerLoad(
        server="one",
        index=0,
        seed=1,
        nominal=Replay(trace=trace).nominal(None),  # type: ignore[arg-type]
        walk=Walk(kind="plain", alpha=0.0),
        replay=Replay(trace=trace, repeat=False),
    )
    spec = EngineSpec(
        model="",
        accelerator="",
        latency_model=LatencyModel(alpha_ms=1.0, beta_ms=0.001, gamma_ms=0.0),
        kv_tokens=160_000,
    )
    replica = make_plain(spec, max_batch=8, queue_max=None, on_finish=lambda *_: None)
    requests = [
        one
        for batch in batches(load, interval_s=60.0, until_s=60.0)
        for one in batch.requests("one")
    ]
    for request in requests:
        replica.advance(request.arrival_s, inclusive=True)
        replica.submit(request, request.arrival_s)
    replica.advance(1e9, inclusive=False)
    assert len(requests) == 40
    for row, request in enumerate(requests):
        before = talk.parents[row]
        expected = talk.shared(before, row) * BLOCK if before >= 0 else 0
        assert request.cached_tokens == min(expected, (request.prompt_tokens - 1) // BLOCK * BLOCK)


def _replayed(trace: Trace, replay: Replay, scales: tuple[float, float]) -> list[Request]:
    """Return three times round of *trace*, with prompts and answers that are scaled."""
    nominal = replay.nominal(None)  # type: ignore[arg-type]
    load = ServerLoad(
        server="one",
        index=0,
        seed=1,
        nominal=replace(
            nominal,
            in_tokens=nominal.in_tokens * scales[0],
            out_tokens=nominal.out_tokens * scales[1],
        ),
        walk=Walk(kind="plain", alpha=0.0),
        replay=replay,
    )
    until_s = 3 * trace.span_s - 0.5
    return [
        one
        for batch in batches(load, interval_s=60.0, until_s=until_s)
        for one in batch.requests("one")
    ]


def _long_talks(rng: np.random.Generator) -> Trace:
    turns = [(talk, "goes on", 400, 300) for talk in rng.integers(4, size=40).tolist()]
    return make_trace("talk", _Talk(turns).columns(hashed=False), spread="none")


@pytest.mark.parametrize("scales", [(0.05, 0.05), (0.1, 1.0), (0.3, 0.3), (1.1, 1.1), (4.0, 0.5)])
def test_a_scaled_conversation_shares_as_much_of_a_prompt(scales: tuple[float, float]) -> None:
    """Whole blocks of the scaled text, however short it is: more would be hits of nothing."""
    trace = _long_talks(np.random.default_rng(5))
    requests = _replayed(trace, Replay(trace=trace, repeat=False), scales)
    last: dict[int, int] = {}
    for row, request in enumerate(requests):
        talk = int(trace.talks[row])  # type: ignore[index]
        before, last[talk] = last.get(talk), row
        if before is None:
            continue
        earlier = requests[before]
        said = scales[0] * (trace.prompt_tokens[before] + trace.output_tokens[before])
        shared = min(said, earlier.prompt_tokens + earlier.output_tokens, request.prompt_tokens)
        common = len({*earlier.blocks} & {*request.blocks})
        # And one more, which says that the answer has names.
        assert shared // BLOCK - 1 <= common <= shared // BLOCK + 1, (row, shared)


@pytest.mark.parametrize("offset", ["none", "random"])
def test_a_trace_that_is_repeated_has_other_conversations(offset: Any) -> None:
    """Or whatever is said first would be found in the cache from the second time on."""
    trace = _long_talks(np.random.default_rng(6))
    requests = _replayed(trace, Replay(trace=trace, offset=offset), (1.0, 1.0))
    assert len(requests) == 120
    ends: dict[int, int] = {}
    for request in requests:
        first = request.blocks[0]
        assert request.prompt_tokens > ends.get(first, 0), "the talk begins anew with its old names"
        ends[first] = request.prompt_tokens
    # Those that the offset cut in two are known by their second half, too.
    assert len(ends) == 12 if offset == "none" else len(ends) > 12


HEADS = {
    "own": "arrival_s,input_tokens,output_tokens,session",
    "servegen": "timestamp,input_tokens,output_tokens,Conversation ID",
    "burstgpt": "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens",
}


def _row(kind: str, time: int, session: object, prompt: int, output: int) -> str:
    if kind == "burstgpt":
        return f"{time},{session},1.5,ChatGPT,{prompt},{output}"
    return f"{time},{prompt},{output},{session}"


@pytest.mark.parametrize("rows", [6, 3000])
@pytest.mark.parametrize("kind", HEADS)
def test_a_column_of_conversations_is_read(tmp_path: Path, kind: str, rows: int) -> None:
    """The same by columns and line by line, packed, and with gaps."""
    names = ["a", "b", "", "NaN", "7", "a b"]
    lines = [_row(kind, place, names[place % 6], 100 + place, 20) for place in range(rows)]
    path = tmp_path / "trace.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n".join([HEADS[kind], *lines]))
    trace = read_trace(path)
    if rows == 6:  # one turn each
        assert trace.talks is None
        return
    assert trace.talks is not None
    assert trace.talks[2:4].tolist() == [-1, -1]
    # Six seconds later the conversation goes on, without the answer: the prompt grows by six.
    assert trace.talks[0] == trace.talks[6]
    assert list(map(len, trace.blocks_of(np.arange(3)))) == [6, 6, 0]
    assert len({int(trace.talks[place]) for place in (0, 1, 4, 5)}) == 4
    assert any("2,000 prompts" in note or "1,996 prompts" in note for note in trace.notes)


@pytest.mark.parametrize("rows", [4, 3000])
def test_a_turn_of_bailian_goes_on_with_its_parent(tmp_path: Path, rows: int) -> None:
    """Its answer has no hashes but those of the next turn."""
    entries: list[dict[str, Any]] = []
    for place in range(0, rows, 2):
        begin = 10 * place
        first = [begin, begin + 1, begin + 2]  # 40 tokens
        second = [begin, begin + 1, *range(begin + 3, begin + 8)]  # 40 + 30 + 40 tokens
        told = {"type": "text", "turn": 1}
        entries += [
            {"chat_id": place, "parent_chat_id": -1, "timestamp": place + 0.5, "input_length": 40,
             "output_length": 30, "hash_ids": first, **told},
            {"chat_id": place + 1, "parent_chat_id": place, "timestamp": place + 1.5,
             "input_length": 110, "output_length": 5, "hash_ids": second, **told},
        ]  # fmt: skip
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)))
    trace = read_trace(path)
    blocks = trace.blocks_of(np.arange(4))
    assert trace.block_tokens == BLOCK
    assert blocks[0] == (0, 1, 3, 4, 5)  # 70 tokens fill four, and one more says that they do
    assert blocks[1] == (0, 1, 3, 4, 5, 6, 7)
    assert any(f"of {rows // 2:,} prompts" in note for note in trace.notes)


@pytest.mark.parametrize("name", ["text", 7, None, 1.5, True])
def test_lines_of_json_may_name_a_conversation_as_they_like(tmp_path: Path, name: object) -> None:
    """Numbers, words, or nothing in some lines."""
    entries = [
        {"timestamp": place * 1000, "input_length": 100 + place, "output_length": 10,
         "session_id": name}
        for place in range(5)
    ]  # fmt: skip
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)))
    trace = read_trace(path)
    assert (trace.talks is None) == (name is None)


@pytest.mark.parametrize(("names", "sigma"), [(1, 1.0), (40, 1.0), (40, 0.0)])
def test_prompts_that_grow_by_chance_alone_are_no_conversation(names: int, sigma: float) -> None:
    """A column of users, or of the run: 28 % of the tokens of such prompts were found in a cache,
    and all of prompts of one length.
    """
    rng = np.random.default_rng(7)
    columns = Columns(
        times_s=np.arange(1000.0),
        prompt_tokens=rng.lognormal(6.5, sigma, 1000).astype(np.int32) + 1,
        output_tokens=rng.integers(20, 200, 1000).astype(np.int32),
        sessions=np.arange(1000) % names,
    )
    trace = make_trace("users", columns, spread="none")
    assert trace.talks is None
    assert "as by chance: they are taken to share nothing" in trace.notes[-1]


def test_two_who_go_on_with_one_share_its_prompt_once() -> None:
    """A branch would give two prompts the same names for other tokens."""
    columns = Columns(
        times_s=np.arange(3.0),
        prompt_tokens=np.array([64, 160, 176], np.int32),
        output_tokens=np.array([40, 10, 10], np.int32),
        sessions=np.array([5, 6, 7]),
        parents=np.array([-1, 5, 5]),
    )
    trace = make_trace("branches", columns, spread="none")
    first, second, third = map(list, trace.blocks_of(np.arange(3)))
    assert first[:6] == second[:6]
    assert not set(first) & set(third)
