"""loop.schema.reading: the data files and the {"system": …} message become SystemData, or one line
that says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loop.schema.reading import parse_system, read_capacity, read_system
from loop.spec import Allocation
from loop.types import Load
from tests.loop.data_files import files, message, write
from twin.spec import SpecError

Change = Callable[[dict[str, dict[str, Any]]], None]


def server(objects: dict[str, dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """Return a server row of the minimal system."""
    row: dict[str, Any] = objects["server-data.json"]["servers"][index]
    return row


def read(directory: Path, change: Change | None = None) -> Any:
    """Write the minimal system, changed, and read it."""
    objects = files()
    if change:
        change(objects)
    return read_system(write(directory, objects))


def test_the_files_of_a_directory_become_a_system(tmp_path: Path) -> None:
    """Every figure must land in the field of its name: the optimizer trusts them blindly."""
    data = read(tmp_path)
    assert data.accelerators["2xH100"].multiplicity == 2
    assert data.accelerators["2xH100"].cost_cents_per_h == 600
    assert data.accelerators["H100"].memory_bandwidth_gbps == 3350
    perf = data.perf["small", "H100"]
    assert (perf.alpha_ms, perf.beta_ms, perf.gamma_ms) == (6.5, 0.02, 0.00005)
    assert (perf.max_batch, perf.at_tokens, perf.acc_count, perf.kv_tokens) == (64, 512, 1, None)
    target = data.target(service_class="Premium", model="small")
    assert (target.slo_itl_ms, target.slo_ttft_ms, target.slo_tps) == (30, 500, 0)
    assert (data.priority("Premium"), data.priority("Free"), data.priority("nobody")) == (1, 3, 100)
    assert data.capacity == {"H100": 8}
    assert data.optimizer.saturation_policy == "RoundRobin"
    assert data.servers["a"].current == Allocation(
        accelerator="H100",
        replicas=2,
        max_batch=32,
        cost_cents_per_h=600,
        load=Load(rate_rpm=120, in_tokens=256, out_tokens=512),
    )


def test_the_share_of_requests_and_the_spread_of_tokens_are_read(tmp_path: Path) -> None:
    """Sizing by a percentile rests on both; where nothing is said the defaults hold."""
    objects = files()
    objects["serviceclass-data.json"]["serviceClasses"][0]["slo-percentile"] = 0.99
    server(objects, 0)["tokenCv"] = 0.2
    server(objects, 1)["tokenCv"] = 0.3
    server(objects, 0)["arrivalCv"] = 2
    server(objects, 1)["arrivalCv"] = 3
    objects["twin-data.json"] = {"servers": [{"name": "b", "tokenCv": 1.5, "arrivalCv": 1.2}]}
    data = read_system(write(tmp_path, objects))
    assert (data.percentile("Premium"), data.percentile("Free")) == (0.99, 0.95)
    assert (data.servers["a"].token_cv, data.servers["b"].token_cv) == (0.2, 1.5)
    assert (data.servers["a"].arrival_cv, data.servers["b"].arrival_cv) == (2.0, 1.2)
    objects["twin-data.json"]["servers"][0]["tokenDistribution"] = "fixed"
    assert read_system(write(tmp_path, objects)).servers["b"].token_cv == 0.0
    plain = read(tmp_path).servers["a"]
    assert (plain.token_cv, plain.arrival_cv, plain.dispersion) == (0.5, 1.0, 1.0)


def test_the_message_and_the_files_say_the_same(tmp_path: Path) -> None:
    """`inferno optimize` and the REST optimizer must not differ from the loop in what they read."""
    objects = files()
    data = read_system(write(tmp_path, objects))
    assert parse_system(message(objects), source="request") == data
    assert parse_system(message(objects)["system"], source="request") == data
    assert parse_system(message(objects), source="request", level="go") == data


def test_servers_are_optional_for_a_cluster_that_names_its_own(tmp_path: Path) -> None:
    """On Kubernetes the servers are Deployments, and the static ConfigMap has no
    server-data.json.
    """
    objects = files()
    del objects["server-data.json"]
    assert read_system(write(tmp_path, objects)).servers == {}


def test_the_estimate_takes_its_kv_capacity_from_the_twin_file(tmp_path: Path) -> None:
    """The optimizer caps the batch by KV cache where it knows it."""
    objects = files()
    objects["twin-data.json"] = {
        "engines": [{"model": "small", "acc": "H100", "kvTokens": 4096, "blockSize": 16}]
    }
    warnings: list[str] = []
    data = read_system(write(tmp_path, objects), warn=warnings.append)
    assert data.perf["small", "H100"].kv_tokens == 4096
    assert data.perf["small", "2xH100"].kv_tokens is None
    assert warnings == []


def _set(file: str, key: str, index: int, field: str, value: object) -> Change:
    def change(objects: dict[str, dict[str, Any]]) -> None:
        objects[file][key][index][field] = value

    return change


def _drop(file: str, key: str, index: int, field: str) -> Change:
    def change(objects: dict[str, dict[str, Any]]) -> None:
        del objects[file][key][index][field]

    return change


def _again(file: str, key: str) -> Change:
    def change(objects: dict[str, dict[str, Any]]) -> None:
        objects[file][key].append(objects[file][key][0])

    return change


WRONG: dict[str, tuple[Change, str]] = {
    "negative price": (
        _set("accelerator-data.json", "accelerators", 0, "cost", -1),
        "accelerator-data.json: accelerators[0] 'H100': cost: expected a number >= 0, found -1",
    ),
    "no price": (
        _drop("accelerator-data.json", "accelerators", 1, "cost"),
        "accelerator-data.json: accelerators[1] '2xH100': cost: expected a number >= 0, found "
        "nothing",
    ),
    "no GPUs": (
        _set("accelerator-data.json", "accelerators", 1, "multiplicity", 0),
        "accelerator-data.json: accelerators[1] '2xH100': multiplicity: expected a whole number >= "
        "1, found 0",
    ),
    "no latency model": (
        _drop("model-data.json", "models", 0, "perfParms"),
        "model-data.json: models[0] 'small on H100': perfParms: expected an object {alpha, beta, "
        "gamma}, found nothing",
    ),
    "negative latency model": (
        _set("model-data.json", "models", 0, "perfParms", {"alpha": 1, "beta": -2, "gamma": 0}),
        "model-data.json: models[0] 'small on H100': perfParms.beta: expected a number >= 0, found "
        "-2",
    ),
    "no time": (
        _set("model-data.json", "models", 0, "perfParms", {"alpha": 0, "beta": 0, "gamma": 1}),
        "model-data.json: models[0] 'small on H100': perfParms.alpha: "
        "expected alpha + beta > 0 (an iteration takes time), found 0",
    ),
    "half a batch": (
        _set("model-data.json", "models", 1, "maxBatchSize", 0.5),
        "model-data.json: models[1] 'small on 2xH100': maxBatchSize: expected a whole number >= 1, "
        "found 0.5",
    ),
    "priority": (
        _set("serviceclass-data.json", "serviceClasses", 0, "priority", 0),
        "serviceclass-data.json: serviceClasses[0] 'Premium': priority: "
        "expected a whole number >= 1 and <= 100, found 0",
    ),
    "percentile": (
        _set("serviceclass-data.json", "serviceClasses", 0, "slo-percentile", 1.5),
        "serviceclass-data.json: serviceClasses[0] 'Premium': slo-percentile: "
        "expected a share above 0 and below 1, such as 0.95, found 1.5",
    ),
    "target": (
        _set(
            "serviceclass-data.json",
            "serviceClasses",
            0,
            "modelTargets",
            [{"model": "small", "slo-itl": "fast"}],
        ),
        "serviceclass-data.json: serviceClasses[0] 'Premium': modelTargets[0] 'small': slo-itl: "
        "expected a number >= 0, found 'fast'",
    ),
    "capacity": (
        _set("capacity-data.json", "count", 0, "count", 2.5),
        "capacity-data.json: count[0] 'H100': count: expected a whole number >= 0, found 2.5",
    ),
    "unknown class": (
        _set("server-data.json", "servers", 1, "class", "Gold"),
        "server-data.json: servers[1] 'b': class: expected one of Free, Premium, found 'Gold'",
    ),
    "unknown model": (
        _set("server-data.json", "servers", 0, "model", "large"),
        "server-data.json: servers[0] 'a': model: expected one of small, found 'large'",
    ),
    "unknown accelerator": (
        _set(
            "server-data.json",
            "servers",
            0,
            "currentAlloc",
            {"accelerator": "B200", "numReplicas": 1},
        ),
        "server-data.json: servers[0] 'a': currentAlloc.accelerator: expected one of 2xH100, H100, "
        "found 'B200'",
    ),
    "negative load": (
        _set("server-data.json", "servers", 0, "currentAlloc", {"load": {"arrivalRate": -1}}),
        "server-data.json: servers[0] 'a': currentAlloc.load.arrivalRate: expected a number >= 0, "
        "found -1",
    ),
    "no tokens": (
        _set("server-data.json", "servers", 0, "currentAlloc", {"load": {"arrivalRate": 1}}),
        "server-data.json: servers[0] 'a': currentAlloc.load.avgInTokens: expected a number >= 0, "
        "found nothing",
    ),
    "same server": (
        _again("server-data.json", "servers"),
        "server-data.json: servers[2] 'a': name: expected a name that no entry before it has, "
        "found 'a'",
    ),
    "same accelerator": (
        _again("accelerator-data.json", "accelerators"),
        "accelerator-data.json: accelerators[2] 'H100': name: "
        "expected a name that no entry before it has, found 'H100'",
    ),
    "same pair": (
        _again("model-data.json", "models"),
        "model-data.json: models[2] 'small on H100': name: "
        "expected a name that no entry before it has, found 'small on H100'",
    ),
    "same class": (
        _again("serviceclass-data.json", "serviceClasses"),
        "serviceclass-data.json: serviceClasses[2] 'Premium': name: "
        "expected a name that no entry before it has, found 'Premium'",
    ),
    "same type": (
        _again("capacity-data.json", "count"),
        "capacity-data.json: count[1] 'H100': type: expected a name that no entry before it has, "
        "found 'H100'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_with_one_line(case: str, tmp_path: Path) -> None:
    """The line is all that the user gets: it must lead to the place, and say what belongs there."""
    change, line = WRONG[case]
    with pytest.raises(SpecError) as error:
        read(tmp_path, change)
    assert str(error.value) == f"{tmp_path}/{line}"


@pytest.mark.parametrize("name", [name for name in files() if name != "server-data.json"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    """Each of the five files is needed; no default would be right."""
    objects = files()
    del objects[name]
    with pytest.raises(SpecError, match=f"/{name}: expected a file, found none"):
        read_system(write(tmp_path, objects))


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    """A mistyped --data is not five missing files."""
    for read_it in (read_system, read_capacity):
        with pytest.raises(
            SpecError, match=r"nowhere: expected a directory of data files, found none"
        ):
            read_it(tmp_path / "nowhere")


def test_what_no_server_can_use_is_told(tmp_path: Path) -> None:
    """A row for an accelerator that is not there is often a slip in its name; it is no reason to
    stop.
    """
    objects = files()
    objects["model-data.json"]["models"].append(
        {**objects["model-data.json"]["models"][0], "acc": "H1000"}
    )
    objects["capacity-data.json"]["count"].append({"type": "h100", "count": 1})
    objects["serviceclass-data.json"]["serviceClasses"][0]["modelTargets"][0]["model"] = "smal"
    server = objects["server-data.json"]["servers"][0]
    server |= {"color": "red", "minNumReplicas": 2, "maxNumReplicas": 1}
    warnings: list[str] = []
    read_system(write(tmp_path, objects), warn=warnings.append)
    assert warnings == [
        "model-data.json: 'small' on 'H1000' is not used: no such accelerator",
        "serviceclass-data.json: 'Premium': target of 'smal' is not used: no such model",
        "capacity-data.json: 'h100' is not used: no accelerator has that type",
        "server-data.json: 'a' cannot be sized: class 'Premium' has no target for 'small'",
        "server-data.json: 'a': minNumReplicas 2 is not kept: maxNumReplicas is 1",
        f"{tmp_path}/server-data.json: servers[0] 'a': unknown key 'color' is not used",
    ]


def test_an_accelerator_of_which_there_are_none_is_told(tmp_path: Path) -> None:
    """Otherwise the first hint is that nothing is ever placed there. Without limits it may be."""
    objects = files()
    (kind, *_others) = objects["capacity-data.json"]["count"]
    kind["count"] = 0
    warnings: list[str] = []
    read_system(write(tmp_path, objects), warn=warnings.append)
    (line,) = warnings
    start = f"capacity-data.json: there are no GPUs of type {kind['type']!r}: nothing can run on "
    assert line.startswith(start)
    objects["optimizer-data.json"]["optimizer"]["unlimited"] = True
    warnings.clear()
    read_system(write(tmp_path, objects), warn=warnings.append)
    assert warnings == []


def test_what_the_existing_tools_write_and_nobody_needs_is_not_told(tmp_path: Path) -> None:
    """Their files hold desiredAlloc, throughput, milpSolver: a line for each would hide the lines
    that matter.
    """
    objects = files()
    objects["optimizer-data.json"]["optimizer"] |= {
        "milpSolver": False,
        "useCplex": False,
        "heterogeneous": False,
    }
    row = server(objects)
    row["desiredAlloc"] = {}
    row["currentAlloc"]["waitAverage"] = 0
    row["currentAlloc"]["load"]["throughput"] = 120
    warnings: list[str] = []
    read_system(write(tmp_path, objects), warn=warnings.append)
    assert warnings == []


def test_capacity_is_read_alone(tmp_path: Path) -> None:
    """It is read every cycle, also where the static files are not."""
    path = tmp_path / "capacity-data.json"
    path.write_text('{"count": [{"type": "H100", "count": 3, "zone": 1}]}')
    warnings: list[str] = []
    assert read_capacity(tmp_path, warn=warnings.append) == {"H100": 3}
    assert warnings == [f"{path}: count[0] 'H100': unknown key 'zone' is not used"]


@pytest.mark.parametrize("part", ["acceleratorData", "modelData", "serviceClassData"])
def test_a_message_must_hold_what_no_answer_can_do_without(part: str) -> None:
    """Unlike the Go tools, which answer an empty system with an empty success."""
    system = message(files())
    del system["system"][part]
    with pytest.raises(SpecError, match=f"^a.json: system.{part}: expected an object"):
        parse_system(system, source="a.json")


@pytest.mark.parametrize("empty", [{}, {"system": {}}, {"system": {"serverData": {}}}])
def test_a_lenient_message_may_hold_nothing(empty: dict[str, Any]) -> None:
    """The existing optimizer answers {} with an empty allocation, and ours must in its place."""
    data = parse_system(empty, source="request", level="go")
    assert (data.servers, data.perf, data.capacity) == ({}, {}, {})


@pytest.mark.parametrize(
    "body", [[], "text", 5, None, {"system": []}, {"system": {"serverData": {"servers": {}}}}]
)
def test_a_lenient_message_of_the_wrong_shape_is_refused(body: object) -> None:
    """The existing optimizer answers 400."""
    with pytest.raises(SpecError):
        parse_system(body, source="request", level="go")


def test_a_lenient_message_may_name_what_does_not_exist() -> None:
    """In the existing optimizer such a server has no candidate; the others are served."""
    objects = files()
    server(objects)["class"] = "Gold"
    server(objects)["currentAlloc"]["accelerator"] = "B200"
    server(objects, 1)["model"] = "large"
    data = parse_system(message(objects), source="request", level="go")
    assert data.servers["a"].current.accelerator == "B200"
    assert data.target(service_class="Gold", model="small") is None


def test_of_equal_names_a_lenient_message_takes_the_last() -> None:
    """set* of the existing optimizer upserts."""
    objects = files()
    objects["capacity-data.json"]["count"].append({"type": "H100", "count": 3})
    assert parse_system(message(objects), source="request", level="go").capacity == {"H100": 3}


def test_odd_figures_of_a_lenient_message_mean_what_they_mean_there() -> None:
    """accCount 0 is 1 and a priority outside 1..100 is 100 in the existing optimizer."""
    objects = files()
    objects["model-data.json"]["models"][0]["accCount"] = 0
    objects["serviceclass-data.json"]["serviceClasses"][0]["priority"] = 250
    objects["optimizer-data.json"]["optimizer"]["saturationPolicy"] = "Fair"
    data = parse_system(message(objects), source="request", level="go")
    assert data.perf["small", "H100"].acc_count == 1
    assert data.priority("Premium") == 100
    assert data.optimizer.saturation_policy == "None"


def test_a_message_survives_its_way_through_text(tmp_path: Path) -> None:
    """Floats of the estimate must not change on the wire."""
    objects = files()
    assert parse_system(json.loads(json.dumps(message(objects))), source="request") == read_system(
        write(tmp_path, objects)
    )


def test_a_capacity_without_limit_is_read(tmp_path: Path) -> None:
    """Some write the largest number of their language where GPUs are never short."""
    (tmp_path / "capacity-data.json").write_text(
        json.dumps({"count": [{"type": "H100", "count": 2147483647}]}), encoding="utf-8"
    )
    assert read_capacity(tmp_path, warn=[].append) == {"H100": 2147483647}
