"""The patch of a change: only what differs, in one piece, and nothing that others have done is
written over.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from loop.backends.kube import labels as names
from loop.backends.kube.patches import (
    UnfitError,
    as_the_template_allows,
    asked_before,
    asked_of,
    change_event,
    contest_before,
    foreign_change,
    gpus_note,
    held_by,
    manager_of,
    others_changed,
    patch_of,
    stays_note,
    what_stays,
)
from loop.backends.kube.read import Server
from loop.backends.kube.rivals import Contest
from loop.backends.kube.views import Sight, server_view
from loop.types import FULL_CACHES, Change, Pool, Why, one_pool
from tests.loop.kube_objects import EPOCH_S, Json, read

DATE = "2026-01-01T00:01:00+00:00"


def change(
    *, accelerator: str = "H100", replicas: int = 2, max_batch: int = 64, reason: str = "because"
) -> Change:
    """Return a change; the defaults are what the Deployment has."""
    pools = one_pool(accelerator=accelerator, replicas=replicas, max_batch=max_batch)
    return Change(server="s1", pools=pools, why=Why(kind="remote", text=reason))


def patch(asked: Change, *, types: dict[str, str] | None = None, **fields: Any) -> Json:
    """Return the patch of *asked* for the Deployment of *fields*."""
    made = patch_of(read(**fields), asked, date=DATE, types=types or {})
    assert made is not None
    return made


def with_command(**container: Any) -> Json:
    """Return the fields of a Deployment that lets its batch size be written to its container."""
    template = {"spec": {"containers": [{"name": "side"}, {"name": "vllm", **container}]}}
    annotations = {names.APPLY_MAX_BATCH: "--max-num-seqs", names.APPLY_CONTAINER: "vllm"}
    return {"annotations": annotations, "spec": {"template": template}}


def test_what_is_so_already_needs_no_patch() -> None:
    """Every write wakes whoever watches."""
    assert patch_of(read(), change(), date=DATE, types={}) is None


def test_labels_and_replicas_go_in_one_patch() -> None:
    """Two would leave a moment, and a failure, in between with one of them only."""
    made = patch(change(accelerator="2xA100", replicas=5, max_batch=16))
    assert made["metadata"]["labels"] == {names.ACCELERATOR: "2xA100", names.MAX_BATCH: "16"}
    assert made["spec"] == {"replicas": 5}


def test_only_what_differs_is_written() -> None:
    """A patch of all would take ownership of fields that nobody asked to change."""
    assert "labels" not in patch(change(replicas=5))["metadata"]
    assert "spec" not in patch(change(max_batch=16))


def test_a_patch_is_for_the_object_that_was_seen() -> None:
    """Another one of the same name, or one changed since, must refuse it."""
    metadata = patch(change(replicas=5))["metadata"]
    assert (metadata["uid"], metadata["resourceVersion"]) == ("uid-dep1", "7")


def test_the_status_says_what_was_asked_for_and_why() -> None:
    """Who looks at the Deployment must see the reason there."""
    told = json.loads(patch(change(replicas=5))["metadata"]["annotations"][names.STATUS])
    assert (told["replicas"], told["accelerator"], told["maxBatch"]) == (5, "H100", 64)
    assert (told["was"], told["reason"], told["time"]) == ("2 x H100, batch 64", "because", DATE)


def test_an_accelerator_that_cannot_be_a_label_is_refused_here() -> None:
    """The server would answer 422 after a round trip, with less to say."""
    with pytest.raises(UnfitError, match="'H 100' cannot be a label"):
        patch(change(accelerator="H 100"))


@pytest.mark.parametrize(
    ("annotation", "selector"),
    [
        ("nvidia.com/gpu.product", {"nvidia.com/gpu.product": "A100"}),
        ("pool={accelerator}", {"pool": "4xA100"}),
        ("pool=gpu-{type}", {"pool": "gpu-A100"}),
    ],
)
def test_an_accelerator_becomes_a_node_selector_where_an_annotation_asks_for_it(
    annotation: str, selector: dict[str, str]
) -> None:
    """Then the cluster really moves the pods, one by one."""
    made = patch(
        change(accelerator="4xA100"),
        types={"4xA100": "A100"},
        annotations={names.APPLY_NODE_SELECTOR: annotation},
    )
    assert made["spec"]["template"]["spec"] == {"nodeSelector": selector}


def test_a_node_selector_that_is_right_already_starts_no_rolling_change() -> None:
    """Any touch of the template replaces every pod."""
    template = {"spec": {"nodeSelector": {"pool": "A100"}, "containers": []}}
    fields = {"annotations": {names.APPLY_NODE_SELECTOR: "pool"}, "spec": {"template": template}}
    assert "spec" not in patch(change(accelerator="A100"), **fields)


@pytest.mark.parametrize(
    ("container", "changed"),
    [
        ({"args": ["--max-num-seqs", "64", "--x"]}, {"args": ["--max-num-seqs", "16", "--x"]}),
        ({"args": ["--max-num-seqs=64"]}, {"args": ["--max-num-seqs=16"]}),
        ({"command": ["vllm", "--max-num-seqs=64"]}, {"command": ["vllm", "--max-num-seqs=16"]}),
        ({"args": ["--x"]}, {"args": ["--x", "--max-num-seqs=16"]}),
        ({}, {"args": ["--max-num-seqs=16"]}),
    ],
)
def test_a_batch_size_becomes_an_argument_where_an_annotation_asks_for_it(
    container: Json, changed: Json
) -> None:
    """Replaced where it stands, else added; the other words stay as they are."""
    made = patch(change(max_batch=16), **with_command(**container))
    assert made["spec"]["template"]["spec"]["containers"] == [{"name": "vllm", **changed}]


def test_an_argument_that_is_right_already_starts_no_rolling_change() -> None:
    """More replicas must not restart those there are."""
    assert patch(change(replicas=5), **with_command(args=["--max-num-seqs=64"]))["spec"] == {
        "replicas": 5
    }


LATER = datetime(2026, 1, 1, 1, tzinfo=UTC)


def allowed(asked: Change, *, at: datetime = LATER, **fields: Any) -> tuple[Pool, str]:
    """Return what the Deployment of *fields* may be asked for, and what is said of the rest."""
    return as_the_template_allows(read(**fields), asked, date=at, types={})


def test_replicas_do_not_wait_for_a_batch_that_cannot_be_written() -> None:
    """The server needs them; the batch stays what it is, and that is said."""
    fields = with_command(command=["sh", "-c"], args=["vllm serve m --max-num-seqs $N"])
    pool, note = allowed(change(replicas=5, max_batch=16), **fields)
    assert (pool.replicas, pool.max_batch) == (5, 64)
    assert "has no number of its own" in note
    assert note.endswith("its batch stays 64")


def test_replicas_do_not_wait_for_a_node_selector_that_cannot_be() -> None:
    """The annotation is a mistake; the load is not."""
    fields = {"annotations": {names.APPLY_NODE_SELECTOR: "gpu=two words"}}
    asked = change(replicas=5)
    pool, note = allowed(asked, **fields)
    assert (pool.replicas, pool.accelerator) == (5, "H100")
    assert "cannot be a label" in note
    assert patch(asked, **fields)["spec"] == {"replicas": 5}
    pool, note = allowed(change(accelerator="2xA100", replicas=1), **fields)
    assert (pool.replicas, pool.accelerator) == (2, "H100")
    assert note.endswith("it stays 2 x H100, batch 64")


@pytest.mark.parametrize(("wanted", "asked"), [(17, 16), (20, 16), (21, 21), (12, 16), (11, 11)])
def test_a_batch_in_the_template_does_not_change_a_little(wanted: int, asked: int) -> None:
    """All pods are replaced for it: 16 → 17 is not worth that."""
    pool, note = allowed(change(max_batch=wanted), **with_command(args=["--max-num-seqs=16"]))
    assert (pool.max_batch, note) == (asked, "")


@pytest.mark.parametrize(("wanted", "asked"), [(53, 53), (72, 64)])
def test_a_batch_that_full_caches_ask_for_is_cut_even_by_a_little(wanted: int, asked: int) -> None:
    """Where a batch of 53 fills the caches one of 44 serves the same load at half the cost; a
    rollout for a little more has no such reason.
    """
    cut = change(max_batch=wanted)
    full = replace(cut, why=replace(cut.why, details={FULL_CACHES: 20_000.0}))
    pool, note = allowed(full, **with_command(args=["--max-num-seqs=64"]))
    assert (pool.max_batch, note) == (asked, "")


def test_a_batch_that_nobody_lets_the_loop_change_is_not_asked_for() -> None:
    """Its label was written anew each cycle, and was never what the pods had."""
    fields = with_command(args=["--max-num-seqs=16"])
    del fields["annotations"]
    pool, _ = allowed(change(replicas=2, max_batch=128), **fields)
    assert (pool.replicas, pool.max_batch) == (2, 16)
    asked = replace(change(), pools=(pool,))
    assert patch_of(read(**fields), asked, date=DATE, types={}) is None


@pytest.mark.parametrize(
    ("argument", "container", "changed"),
    [
        ("--max-num-seqs", {"args": ["--max-num-seqs=16", "-dp", "4"]}, {"args": ["-dp", "4"]}),
        (
            "BATCH",
            {
                "args": ["--max-num-seqs=$(BATCH)", "--data-parallel-size=4"],
                "env": [{"name": "BATCH", "value": "16"}],
            },
            {"env": [{"name": "BATCH", "value": "32"}]},
        ),
    ],
    ids=["argument", "variable"],
)
def test_engines_of_one_pod_share_its_batch(argument: str, container: Json, changed: Json) -> None:
    """The annotation that adopt names made four engines of 64 a batch of 64, and a batch that was
    found for all four the batch of each.
    """
    fields = with_command(**container)
    fields["annotations"] |= {names.APPLY_MAX_BATCH: argument}
    assert read(**fields).max_batch == 64
    pool, _ = allowed(change(max_batch=131), **fields)
    assert pool.max_batch == 128
    made = patch(replace(change(), pools=(pool,)), **fields)
    if "args" in changed:
        changed = {"args": ["--max-num-seqs=32", *changed["args"]]}
    assert made["spec"]["template"]["spec"]["containers"] == [{"name": "vllm", **changed}]
    fields = with_command(**(container | changed))
    fields["annotations"] |= {names.APPLY_MAX_BATCH: argument}
    assert read(**fields).max_batch == 128


def test_pods_are_not_replaced_twice_within_minutes() -> None:
    """Each time they load the model anew; replicas go on changing meanwhile."""
    fields = with_command(args=["--max-num-seqs=16"])
    first = patch(change(max_batch=64), **fields)
    fields["annotations"] |= first["metadata"]["annotations"]
    soon = datetime(2026, 1, 1, 0, 3, tzinfo=UTC)
    asked = change(replicas=4, max_batch=64)
    pool, note = allowed(asked, at=soon, **fields)
    assert (pool.replicas, pool.max_batch) == (4, 16)
    assert note == "batch 16 stays for 480 s more: its pods were replaced just now"
    later = allowed(asked, at=LATER, **fields)
    assert (later[0].max_batch, later[1]) == (64, "")
    # A change of replicas in between does not begin the time anew.
    between = patch(change(replicas=3, max_batch=16), **fields)
    told = json.loads(between["metadata"]["annotations"][names.STATUS])
    assert told["templateTime"] == DATE


def test_a_template_whose_rollout_is_paused_is_let_alone_and_replicas_change() -> None:
    """Nothing would be replaced, and the loop would count on a batch that no pod has."""
    fields = with_command(args=["--max-num-seqs=16"])
    fields["spec"] = {**fields.get("spec", {}), "paused": True}
    pool, note = allowed(change(replicas=4, max_batch=64), **fields)
    assert (pool.replicas, pool.max_batch) == (4, 16)
    assert note == "its rollout is paused (spec.paused): its template stays as it is"


@pytest.mark.parametrize(
    ("command", "spec", "why"),
    [
        (["--max-num-seqs=16"], {"paused": True}, "its rollout is paused (spec.paused)"),
        (["--max-num-seqs", "$(BATCH)"], {}, "has no number of its own in '$(BATCH)'"),
        (["--max-num-seqs=16"], {}, ""),
    ],
)
def test_what_a_template_cannot_take_is_known_before_anything_is_decided(
    command: list[str], spec: dict[str, object], why: str
) -> None:
    """Two replicas of a batch of 117 were asked for, and both kept 16: five were needed."""
    fields = with_command(args=command)
    fields["spec"] = fields.get("spec", {}) | spec
    one = read(**fields)
    stays = what_stays(one, date=LATER)
    assert (stays.batch, stays.accelerator) == (bool(why), False)
    assert stays_note(one, stays).endswith(why)
    assert server_view(Server(deployment=one), Sight(), stays=stays).batch_fixed is bool(why)


def test_pods_that_were_replaced_just_now_stay_as_they_are() -> None:
    """For ten minutes replicas were counted for a batch and an accelerator that had to wait."""
    status = json.dumps({"templateTime": DATE})
    selects = {names.STATUS: status, names.APPLY_NODE_SELECTOR: "gpu"}
    one = read(annotations=selects)
    soon = datetime(2026, 1, 1, 0, 3, tzinfo=UTC)
    assert [what_stays(one, date=at).accelerator for at in (soon, LATER)] == [True, False]
    view = server_view(Server(deployment=one), Sight(), stays=what_stays(one, date=soon))
    assert (view.accelerator_fixed, view.batch_fixed) == (True, False)


GPUS = {("llama_8b", "H100"): 2, ("llama_8b", "4xL40S"): 4, ("llama_8b", "2xA100"): 2}


def with_limit(
    count: int, *, apply: bool = False, batch: bool = False, **container: Any
) -> dict[str, Any]:
    """Return the fields of a Deployment whose second container asks for *count* GPUs."""
    limits = {"nvidia.com/gpu": str(count), "cpu": "8"}
    engine = {"name": "vllm", "resources": {"limits": limits}, **container}
    annotations = {names.APPLY_GPUS: "true"} if apply else {}
    if batch:
        annotations[names.APPLY_MAX_BATCH] = "--max-num-seqs"
    template = {"spec": {"containers": [{"name": "side"}, engine]}}
    return {"annotations": annotations, "spec": {"template": template}}


def test_pods_do_not_move_to_an_accelerator_of_more_gpus_than_they_ask_for() -> None:
    """`4xL40S` was written on a Deployment whose pods kept two GPUs."""
    one, asked = read(**with_limit(2)), change(accelerator="4xL40S", replicas=5)
    pool, note = as_the_template_allows(one, asked, date=LATER, types={}, gpus=GPUS)
    assert pool == held_by(one)
    assert note == "does not move to 4xL40S: that is 4 GPUs, and its pods ask for 2"


@pytest.mark.parametrize(
    ("count", "accelerator"), [(2, "2xA100"), (0, "4xL40S"), (2, "unknown"), (2, "H100")]
)
def test_pods_move_where_their_gpus_are_as_many_or_do_not_matter(
    count: int, accelerator: str
) -> None:
    """A template without GPUs (the walk-through's) restricts nothing."""
    one, asked = read(**with_limit(count)), change(accelerator=accelerator, replicas=5)
    allowed_pool = as_the_template_allows(one, asked, date=LATER, types={}, gpus=GPUS)
    assert allowed_pool == (asked_of(asked), "")


def test_the_gpus_of_an_accelerator_are_written_where_an_annotation_asks_for_it() -> None:
    """In the container that has them, with the batch in the same patch."""
    words = ["--max-num-seqs", "64", "--tensor-parallel-size=2"]
    one = read(**with_limit(2, apply=True, batch=True, args=words))
    asked = change(accelerator="4xL40S", max_batch=128)
    assert as_the_template_allows(one, asked, date=LATER, types={}, gpus=GPUS)[1] == ""
    made = patch_of(one, asked, date=DATE, types={}, gpus=GPUS)
    assert made is not None
    assert made["spec"]["template"]["spec"]["containers"] == [
        {
            "name": "vllm",
            "args": ["--max-num-seqs", "128", "--tensor-parallel-size=4"],
            "resources": {"limits": {"nvidia.com/gpu": "4"}},
        }
    ]


def test_gpus_that_are_right_already_start_no_rolling_change() -> None:
    """An accelerator of another name may have as many."""
    one = read(**with_limit(2, apply=True))
    made = patch_of(one, change(accelerator="2xA100"), date=DATE, types={}, gpus=GPUS)
    assert made is not None
    assert "spec" not in made


def test_a_change_of_gpus_waits_after_a_change_of_the_template() -> None:
    """It replaces all pods as well as a batch does."""
    fields = with_limit(2, apply=True)
    first = patch_of(read(**fields), change(accelerator="4xL40S"), date=DATE, types={}, gpus=GPUS)
    assert first is not None
    fields["annotations"] |= first["metadata"]["annotations"]
    soon, asked = datetime(2026, 1, 1, 0, 3, tzinfo=UTC), change(accelerator="4xL40S", replicas=3)
    pool, note = as_the_template_allows(read(**fields), asked, date=soon, types={}, gpus=GPUS)
    assert pool == held_by(read(**fields))
    assert "moves no sooner than in 480 s" in note


def test_what_is_not_considered_for_its_gpus_is_told() -> None:
    """Only where there is something that would be."""
    assert "only accelerators of 2 GPUs are considered" in gpus_note(
        read(**with_limit(2)), gpus=GPUS
    )
    assert gpus_note(read(**with_limit(2)), gpus={("llama_8b", "H100"): 2}) == ""
    assert gpus_note(read(**with_limit(2, apply=True)), gpus=GPUS) == ""
    assert gpus_note(read(), gpus=GPUS) == ""


def test_a_container_that_is_not_there_is_refused() -> None:
    """A patch would add one of that name."""
    fields = with_command()
    fields["annotations"][names.APPLY_CONTAINER] = "vlm"
    with pytest.raises(UnfitError, match="expected the name of a container, found 'vlm'"):
        patch(change(max_batch=16), **fields)


def test_scaling_to_zero_writes_replicas_alone() -> None:
    """Accelerator and batch are what the server starts with again."""
    made = patch(change(replicas=0))
    assert (made["spec"], "labels" in made["metadata"]) == ({"replicas": 0}, False)


def test_a_change_of_anything_else_by_others_is_no_obstacle() -> None:
    """The status of a Deployment changes all the time."""
    now = read(metadata={"resourceVersion": "9", "generation": 4}, labels={"team": "a"})
    assert others_changed(now, read()) == ""


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"replicas": 4}, "from 2 x H100, batch 64 to 4 x H100, batch 64 meanwhile"),
        (
            {"labels": {names.ACCELERATOR: "L4"}},
            "from 2 x H100, batch 64 to 2 x L4, batch 64 meanwhile",
        ),
        ({"labels": {names.MANAGED: "false"}}, "no longer managed"),
        ({"labels": {names.NAME: "s2"}}, "no longer managed under this name"),
        ({"metadata": {"uid": "another"}}, "deleted and made anew"),
    ],
)
def test_what_others_changed_of_what_the_loop_sets_is_told(fields: Json, line: str) -> None:
    """A person who scales by hand during a cycle must win that cycle."""
    assert line in others_changed(read(**fields), read())


def test_who_changed_it_is_told_as_far_as_the_object_says() -> None:
    """The managed fields name the writer; the loop itself is not meant."""
    written = {"f:spec": {"f:replicas": {}}}
    entries = [
        {"manager": "inferno", "time": "2026-01-01T00:09:00Z", "fieldsV1": written},
        {"manager": "kubectl-scale", "time": "2026-01-01T00:05:00Z", "fieldsV1": written},
        {
            "manager": "kubectl-edit",
            "time": "2026-01-01T00:08:00Z",
            "fieldsV1": {"f:spec": {"f:paused": {}}},
        },
    ]
    one = read(replicas=4, metadata={"managedFields": entries})
    assert manager_of(one, replicas=True) == "kubectl-scale"
    asked = Pool(accelerator="H100", replicas=2, max_batch=64)
    line = "2 x H100, batch 64 was asked for, found 4 x H100, batch 64: changed by kubectl-scale"
    assert foreign_change(one, asked) == line
    assert foreign_change(one, held_by(one)) == ""
    assert manager_of(read(), replicas=True) == "someone else"


def test_what_was_asked_before_is_remembered_in_the_status() -> None:
    """A controller that starts again still notices what others did while it was away."""
    text = patch(change(replicas=5))["metadata"]["annotations"][names.STATUS]
    assert asked_before(read(annotations={names.STATUS: text})) == Pool(
        accelerator="H100", replicas=5, max_batch=64
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "no",
        '{"accelerator": "a", "replicas": "x", "maxBatch": 1}',
        '{"undone": 2, "undoneTime": "2026-01-01T00:00:00"}',
        '{"undone": -3, "undoneTime": "2026-01-01T00:00:00+00:00"}',
        '{"accelerator": "a", "replicas": 1e999, "maxBatch": 1, "templateTime": "2026-01-01"}',
        f'{{"replicas": {"7" * 5000}, "templateTime": "2026-01-01T00:00:00"}}',
        "[" * 100_000,
    ],
)
def test_a_status_that_others_have_spoilt_is_not_used(text: str) -> None:
    """It is a note, not a source of truth."""
    fields = {"annotations": {names.STATUS: text, **with_command()["annotations"]}}
    one = read(**{**with_command(args=["--max-num-seqs=16"]), **fields})
    assert asked_before(one) is None
    assert contest_before(one, epoch_s=EPOCH_S) == Contest()
    asked = change(max_batch=64)
    told = as_the_template_allows(one, asked, date=LATER, types={})
    assert told == (asked_of(asked), "")


def test_an_event_is_about_the_deployment_and_says_why() -> None:
    """`kubectl describe` finds it by the uid."""
    one = read()
    event = change_event(one, asked_of(change(replicas=5)), reason="itl binds", date=DATE)
    assert event["involvedObject"]["uid"] == "uid-dep1"
    assert (
        event["message"] == "Asked for 5 x H100, batch 64 instead of 2 x H100, batch 64: itl binds"
    )
    assert event["metadata"]["namespace"] == "infer"


def test_who_scales_through_the_subresource_is_named_although_its_entry_has_no_time() -> None:
    """A real server writes none there; whoever touched a label later has not changed replicas."""
    entries = [
        {
            "manager": "kubectl-label",
            "time": "2026-01-01T00:09:00Z",
            "fieldsV1": {"f:metadata": {"f:labels": {f"f:{names.ACCELERATOR}": {}}}},
        },
        {
            "manager": "kube-controller-manager",
            "subresource": "scale",
            "fieldsV1": {"f:spec": {"f:replicas": {}}},
        },
    ]
    one = read(replicas=4, metadata={"managedFields": entries})
    assert manager_of(one, replicas=True) == "kube-controller-manager"
    line = foreign_change(one, Pool(accelerator="H100", replicas=2, max_batch=64))
    assert line.endswith("changed by kube-controller-manager")


@pytest.mark.parametrize("apply", [False, True])
def test_pods_with_other_gpus_than_their_accelerator_are_told(apply: bool) -> None:
    """What is in force is what the pods ask for, whatever a label says."""
    one = read(labels={names.ACCELERATOR: "4xL40S"}, **with_limit(2, apply=apply))
    assert "its pods ask for 2 GPUs, and 4xL40S is 4 GPUs" in gpus_note(one, gpus=GPUS)


def test_pods_of_several_engines_are_told() -> None:
    """Of what the second one does and holds the plan knows nothing."""
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    engines = {
        "containers": [{"name": "vllm", **gpu}],
        "initContainers": [
            {"name": "second", "restartPolicy": "Always", **gpu},
            {"name": "loader", **gpu},
        ],
    }
    one = read(spec={"template": {"spec": engines}})
    assert gpus_note(one, gpus={}) == (
        "s1: its pods have 2 GPUs in vllm, second: a replica is planned for as vllm alone, of 1 GPU"
    )
