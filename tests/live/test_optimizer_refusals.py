"""What the optimizer service refuses: with a 4xx, one clear line, and nothing changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.services.optimizer_app import make_optimizer_app
from tests.live.optimizer_bodies import body, fill, server
from tests.live.optimizer_served import serving

BODY_BYTES_MAX = 300_000


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """Return a client of a service that keeps a system, which is that of optimizer_bodies with one
    server.
    """
    app = make_optimizer_app(
        settings=OptimizerSettings(rules=OURS), stateful=True, body_bytes_max=BODY_BYTES_MAX
    )
    with serving(app) as found:
        fill(found)
        yield found


@pytest.fixture(scope="module")
def compat() -> Iterator[httpx.Client]:
    """Return a client of a service that answers as the existing one."""
    settings = OptimizerSettings(solver="greedy", rules=GO_TODAY)
    with serving(make_optimizer_app(settings=settings, stateful=True)) as found:
        yield found


BAD = {
    "no JSON": ("{bad", "expected JSON"),
    "nothing": ("", "expected JSON, found nothing"),
    "bytes": (b"\xff\xfe\x00", "expected JSON"),
    "a list": ("[]", "expected an object"),
    "null": ("null", "expected JSON|expected an object"),
    "nested too deep": ("[" * 100_000, "expected JSON"),
    "too many digits": ("1" * 5000, "expected JSON"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("path", ["/optimizeOne", "/optimize", "/addServer"])
def test_a_body_that_is_no_json_object_is_refused_in_one_line(
    case: str, path: str, client: httpx.Client
) -> None:
    """The existing service answers 400 with an empty body: nobody learns what was wrong."""
    content, wanted = BAD[case]
    refused(client.post(path, content=content), 400, wanted)


WRONG = {
    "a text for a number": (
        {"arrivalRate": "many"},
        "arrivalRate: expected a number >= 0, found 'many'",
    ),
    "negative": ({"arrivalRate": -5}, "arrivalRate: expected a number >= 0, found -5"),
    "true for a number": (
        {"avgOutTokens": True},
        "avgOutTokens: expected a number >= 0, found true",
    ),
    "not a number": (
        {"arrivalRate": float("nan")},
        "arrivalRate: expected a number >= 0, found NaN",
    ),
    "infinite": (
        {"arrivalRate": float("inf")},
        "arrivalRate: expected a number >= 0, found Infinity",
    ),
    "beyond all measure": (
        {"arrivalRate": 1e300},
        "arrivalRate: expected a number >= 0 and <= 1e+12, found 1e+300",
    ),
    "a list for a number": (
        {"avgInTokens": [1]},
        "avgInTokens: expected a number >= 0, found [1]",
    ),
    "said by half": (
        {"avgOutTokens": None},
        "avgOutTokens: expected a number >= 0, found nothing",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_figure_is_refused_with_its_place(case: str, client: httpx.Client) -> None:
    """In a message of hundreds of servers, "bad request" does not help."""
    load, wanted = WRONG[case]
    one = server()
    one["currentAlloc"]["load"].update(load)
    answer = client.post("/optimizeOne", content=json.dumps(body(server("s0"), one)))
    refused(
        answer,
        400,
        re.escape("body: system.serverData.servers[1] 's1': currentAlloc.load." + wanted),
    )


MISSING = {
    "cost": ("/addAccelerator", {"name": "X"}, "body: cost: expected a number >= 0, found nothing"),
    "name": ("/addServer", {"model": "m"}, "body: name: expected a text, found nothing"),
    "empty name": ("/addServer", {"name": ""}, "body: name: expected a text, found ''"),
    "count": (
        "/setCapacity",
        {"type": "G2"},
        "body: count: expected a whole number >= 0, found nothing",
    ),
    "negative count": (
        "/setCapacity",
        {"type": "G2", "count": -1},
        "body: count: expected a whole number >= 0, found -1",
    ),
    "half a GPU": (
        "/setCapacity",
        {"type": "G2", "count": 1.5},
        "body: count: expected a whole number >= 0, found 1.5",
    ),
    "batch": (
        "/setModels",
        {"models": [{"name": "m", "acc": "G2"}]},
        r"body: models\[0\] 'm on G2': maxBatchSize: expected a whole number >= 0, found nothing",
    ),
    "policy": (
        "/optimize",
        {"saturationPolicy": "Fair"},
        "saturationPolicy: expected one of None, Prio.* found 'Fair'",
    ),
    "flag": (
        "/optimize",
        {"unlimited": "yes"},
        "unlimited: expected true or false, found 'yes'",
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_verbs_refuse_what_is_missing_or_impossible_and_change_nothing(
    case: str, client: httpx.Client
) -> None:
    """What Go takes for zero when it is absent would be a free accelerator, or a type without
    GPUs.
    """
    path, content, wanted = MISSING[case]
    before = everything(client)
    refused(client.post(path, json=content), 400, wanted)
    assert everything(client) == before


def test_a_name_that_cannot_be_written_down_is_refused(client: httpx.Client) -> None:
    """JSON can name half a character. It was taken, and from then on no answer that told of it
    could be sent.
    """
    before = everything(client)
    text = b'{"name": "a\\ud800", "type": "A100", "cost": 1}'
    refused(client.post("/addAccelerator", content=text), 400, "half of a pair of surrogates")
    assert everything(client) == before
    whole = text.replace(b"a\\ud800", b"\\ud83d\\ude00")
    assert client.post("/addAccelerator", content=whole).status_code in (200, 201)


def everything(client: httpx.Client) -> list[Any]:
    """Return all that the service keeps."""
    kinds = ("Accelerators", "Capacities", "Models", "ServiceClasses", "Servers")
    return [client.get(f"/get{kind}").json() for kind in kinds]


def refused(answer: httpx.Response, status: int, line: str) -> None:
    """Check that *answer* is an error of one clear line, in which the pattern *line* is found."""
    assert answer.status_code == status, answer.text[:200]
    assert answer.json().keys() == {"message"}
    said = answer.json()["message"]
    assert re.search(line, said), said
    assert len(said) < 300
    assert "\n" not in said


def test_a_body_that_is_too_long_is_refused_before_it_is_read(client: httpx.Client) -> None:
    """Memory is bounded, whether the length is told beforehand or not."""
    content = b" " * (BODY_BYTES_MAX + 1)
    wanted = f"body: expected at most {BODY_BYTES_MAX} bytes, found more"
    refused(client.post("/optimizeOne", content=content), 413, wanted)
    pieces = (content[i : i + 1000] for i in range(0, len(content), 1000))
    refused(client.post("/optimizeOne", content=pieces), 413, wanted)
    padded = json.dumps(body()).encode().ljust(BODY_BYTES_MAX)
    assert client.post("/optimizeOne", content=padded).status_code == 200


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_every_body_is_taken_for_json(kind: str | None, client: httpx.Client) -> None:
    """curl -d says that it sends a form; the existing service does not look either."""
    headers = {"content-type": kind} if kind else {}
    assert (
        client.post("/optimizeOne", content=json.dumps(body()), headers=headers).status_code == 200
    )


def test_a_path_that_is_none_is_refused_in_one_line(client: httpx.Client) -> None:
    """The error of a misspelt verb names it."""
    refused(client.get("/getServer"), 404, "GET /getServer: Not Found")
    refused(client.get("/optimizeOne"), 405, "GET /optimizeOne: Method Not Allowed")
    refused(client.get("/getServer/none"), 404, "server none not found")
    refused(client.get("/addServiceClass/Gold/-1"), 400, "service class priority -1 invalid")


def test_a_path_may_end_in_a_slash(client: httpx.Client) -> None:
    """Without a redirection, which not every client follows."""
    assert client.get("/getServers/").json() == client.get("/getServers").json()


def test_a_name_may_hold_a_slash(client: httpx.Client) -> None:
    """Models are called meta-llama/Llama-3.1-8B."""
    assert client.get("/addModel/org/model").json() == "org/model"
    assert client.get("/getModel/org%2Fmodel").json() == {"models": []}
    assert client.get("/removeModel/org/model").status_code == 200


def test_in_compat_too_negative_figures_and_huge_batches_are_refused(compat: httpx.Client) -> None:
    """The existing service takes both; the second would take all memory."""
    refused(
        compat.post("/setCapacity", json={"type": "G2", "count": -1}),
        400,
        "body: count: expected a whole number >= 0, found -1",
    )
    refused(
        compat.post("/optimizeOne", json=body(server(rpm=-1.0))),
        400,
        "arrivalRate: expected a number >= 0, found -1.0",
    )
    huge = body(server(maxBatchSize=10**9))
    refused(
        compat.post("/optimizeOne", json=huge),
        400,
        "server 's1': expected a batch of at most 200000 on ",
    )


KEYS = [
    "system",
    "serverData",
    "servers",
    "name",
    "class",
    "model",
    "currentAlloc",
    "load",
    "arrivalRate",
    "count",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    part=st.sampled_from(
        ["serverData", "modelData", "capacityData", "optimizerData", "serviceClassData"]
    ),
    value=VALUES,
)
def test_no_body_is_too_odd_for_an_answer(
    part: str, value: Any, client: httpx.Client, compat: httpx.Client
) -> None:
    """Whatever comes, the answer is one, or a 4xx: never a 500."""
    content = json.dumps(body(**{part: value}))
    for each in (client, compat):
        assert each.post("/optimizeOne", content=content).status_code in {200, 400, 404}
