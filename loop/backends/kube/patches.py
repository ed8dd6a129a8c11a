"""What to write for a change: one patch of its Deployment, and the Event that tells of it; and what
others have changed meanwhile; pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from loop.backends.kube import labels as names
from loop.backends.kube.arguments import changed, engines_of, with_changes, with_gpus
from loop.backends.kube.gpus import gpu_limits, side_by_side
from loop.backends.kube.nodes import Tenant
from loop.backends.kube.read import Deployment, Server, batch_in_force
from loop.backends.kube.rivals import Contest
from loop.replacing import replace
from loop.types import FULL_CACHES, Change, Pool

Json = dict[str, Any]
GpuCounts = Mapping[tuple[str, str], int]  # the GPUs of a replica by (model, accelerator)
NO_COUNTS: GpuCounts = {}
NO_TYPES: Mapping[str, str] = {}
REASON_MAX = 500
# A batch in the pod template changes by more than this, or not at all: 12 rolling restarts were
# seen in 100 s, one of them for 16 → 17.
BATCH_RATIO_MIN, BATCH_RATIO_MAX = 0.75, 1.25
TEMPLATE_S_MIN = 600.0  # between two changes of a pod template: new pods need minutes to start
PAUSED = "its rollout is paused (spec.paused)"
UNDONE_MAX = 10**6  # a note that says more is nobody's of the loop
MANAGER = "inferno"
LATEST = "~"  # sorts behind every date
MESSAGE_MAX = 1000  # of an Event; a server refuses longer ones


class UnfitError(Exception):
    """A change cannot be written as the Deployment asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stays:
    """What of a Deployment stays as it is, its batch and its accelerator, and why."""

    batch: bool = False
    accelerator: bool = False
    why: str = ""


NOTHING_STAYS = Stays()


def pool_text(pool: Pool) -> str:
    """Return *pool* as people write it."""
    return f"{pool.replicas} x {pool.accelerator or 'nothing'}, batch {pool.max_batch}"


def asked_of(change: Change) -> Pool:
    """Return the one pool that *change* asks for: a Deployment is one pool."""
    (pool,) = change.pools
    return pool


def held_by(deployment: Deployment) -> Pool:
    """Return what *deployment* is asked to have."""
    return Pool(
        accelerator=deployment.accelerator,
        replicas=deployment.wanted,
        max_batch=deployment.max_batch,
    )


def asked_before(deployment: Deployment) -> Pool | None:
    """Return what the loop last asked of *deployment*, by its status annotation; None where that
    does not tell.
    """
    told = _status(deployment)
    try:
        return Pool(
            accelerator=str(told["accelerator"]),
            replicas=int(told["replicas"]),
            max_batch=int(told["maxBatch"]),
        )
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def _status(deployment: Deployment) -> Json:
    """Return what the status annotation of *deployment* tells; nothing if others have spoilt it."""
    try:
        told = json.loads(deployment.annotations.get(names.STATUS, ""))
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def patch_of(
    deployment: Deployment,
    change: Change,
    *,
    date: str,
    types: Mapping[str, str],
    gpus: GpuCounts = NO_COUNTS,
    source: str = "",
    undone: int = 0,
    undone_date: str = "",
) -> Json | None:
    """Return the strategic merge patch that makes *deployment* what *change* says, None where it is
    that already.

    It holds only what differs, with the version it was made for, so that a change by others in
    between is refused. *types* are accelerator types by accelerator, *gpus* what the data know of
    the GPUs of a replica, *source* is what measures the load, if anything does, *undone* how often
    in a row others have undone what was asked, the last time at *undone_date*. Raise UnfitError if
    a label or an annotation forbids it.
    """
    desired, held = asked_of(change), held_by(deployment)
    if desired == held:
        return None
    labels: Json = {}
    if desired.accelerator != held.accelerator:
        labels[names.ACCELERATOR] = desired.accelerator
    if desired.max_batch != held.max_batch:
        labels[names.MAX_BATCH] = str(desired.max_batch)
    for value in labels.values():
        if problem := names.value_problem(value):
            raise UnfitError(problem)
    spec: Json = {}
    if desired.replicas != held.replicas:
        spec["replicas"] = desired.replicas
    template = _possible_patch(deployment, desired, types=types, gpus=gpus)
    if template:
        spec["template"] = {"spec": template}
    metadata: Json = {
        "uid": deployment.uid,
        "resourceVersion": deployment.version,
        "annotations": {
            names.STATUS: status_text(
                desired,
                was=held,
                reason=change.why.text,
                date=date,
                source=source,
                template_date=date if template else _template_date(deployment),
                undone=undone,
                undone_date=undone_date,
            )
        },
    }
    if labels:
        metadata["labels"] = labels
    return {"metadata": metadata} | ({"spec": spec} if spec else {})


def as_the_template_allows(
    deployment: Deployment,
    change: Change,
    *,
    date: datetime,
    types: Mapping[str, str],
    gpus: GpuCounts = NO_COUNTS,
) -> tuple[Pool, str]:
    """Return what may be asked of *deployment* now, and what of *change* must wait or cannot be.

    Where accelerator or batch size stand in the pod template, each change of them replaces all
    pods: small changes of the batch are not worth it, unless it is cut because KV caches are full,
    and there is a time between two changes. Replicas never wait for a template. A pod moves to no
    accelerator of more or fewer GPUs than it asks for, unless the loop may change that too.
    """
    desired, held = asked_of(change), held_by(deployment)
    if problem := _gpus_problem(deployment, desired, gpus=gpus):
        # Replicas that were counted for another accelerator say nothing of this one.
        return held, problem
    argument = deployment.annotations.get(names.APPLY_MAX_BATCH, "").strip()
    notes = []
    if argument and desired.max_batch > 0:
        engines = _engines(deployment)
        desired = replace(desired, max_batch=max(desired.max_batch // engines, 1) * engines)
    if 0 < desired.max_batch != held.max_batch:
        ratio = desired.max_batch / held.max_batch if held.max_batch > 0 else 0.0
        least = 1.0 if FULL_CACHES in change.why.details else BATCH_RATIO_MIN
        is_little = argument and least <= ratio <= BATCH_RATIO_MAX
        if deployment.batch_fixed or is_little:
            desired = replace(desired, max_batch=held.max_batch)
    try:
        template = _template_patch(deployment, desired, types=types, gpus=gpus)
    except UnfitError as error:
        desired, note = _less_of(deployment, desired, types=types, gpus=gpus)
        template = _possible_patch(deployment, desired, types=types, gpus=gpus)
        notes.append(f"{error}: {note}")
    if template and deployment.rollout_paused:
        notes.append(f"{PAUSED}: its template stays as it is")
        stays = _moves(template) and desired.accelerator != held.accelerator
        desired = held if stays else replace(desired, max_batch=held.max_batch)
        return desired, "; ".join(notes)
    left_s = _waits_s(deployment, date=date)
    if template and left_s > 0.0:
        if desired.accelerator != held.accelerator and _moves(template):
            desired = held
            notes.append(f"moves no sooner than in {left_s:.0f} s: its pods were replaced just now")
        else:
            desired = replace(desired, max_batch=held.max_batch)
            notes.append(
                f"batch {held.max_batch} stays for {left_s:.0f} s more: its pods were replaced "
                "just now"
            )
    return desired, "; ".join(notes)


def _waits_s(deployment: Deployment, *, date: datetime) -> float:
    """Return how long the pod template of *deployment* is to stay, as its pods were replaced just
    now [s]; 0 if it may change.
    """
    before = _template_changed(deployment)
    waited_s = (date - before).total_seconds() if before else TEMPLATE_S_MIN
    return TEMPLATE_S_MIN - waited_s if 0.0 <= waited_s < TEMPLATE_S_MIN else 0.0


def what_stays(deployment: Deployment, *, date: datetime) -> Stays:
    """Return what of *deployment* its pod template does not let change now, whatever is decided.

    Who decides has to know it before: replicas that are counted for a batch or an accelerator that
    nobody gives them are too few.
    """
    writes_batch = bool(deployment.annotations.get(names.APPLY_MAX_BATCH, "").strip())
    selector = deployment.annotations.get(names.APPLY_NODE_SELECTOR, "").strip()
    moves = bool(selector) or deployment.applies_gpus
    if not (writes_batch or moves):
        return NOTHING_STAYS
    if deployment.rollout_paused:
        return Stays(batch=writes_batch, accelerator=moves, why=PAUSED)
    if _waits_s(deployment, date=date) > 0.0:
        why = f"its pods were replaced less than {TEMPLATE_S_MIN / 60.0:.0f} minutes ago"
        return Stays(batch=writes_batch, accelerator=moves, why=why)
    if not writes_batch:
        return NOTHING_STAYS
    held = held_by(deployment)
    containers = list(deployment.pod_spec.get("containers") or ())
    try:
        _batch_patch(deployment, replace(held, max_batch=2 * max(held.max_batch, 1)), containers)
    except UnfitError as error:
        return Stays(batch=True, why=str(error))
    return NOTHING_STAYS


def stays_note(deployment: Deployment, stays: Stays) -> str:
    """Return what to say of *deployment* of which *stays* is so; nothing if all may change."""
    what = [
        *([f"its batch stays {deployment.max_batch}"] if stays.batch else []),
        *([f"its pods stay on {deployment.accelerator}"] if stays.accelerator else []),
    ]
    return f"{deployment.server}: {' and '.join(what)}, as {stays.why}" if what else ""


def _less_of(
    deployment: Deployment, desired: Pool, *, types: Mapping[str, str], gpus: GpuCounts
) -> tuple[Pool, str]:
    """Return what of *desired* the pod template of *deployment* can take, and what stays as it
    is.
    """
    held = held_by(deployment)
    with_batch_held = replace(desired, max_batch=held.max_batch)
    try:
        _possible_patch(deployment, with_batch_held, types=types, gpus=gpus)
    except UnfitError:
        # Replicas that were counted for another accelerator say nothing of this one.
        return held, f"it stays {pool_text(held)}"
    stays = desired.max_batch != held.max_batch
    return with_batch_held, f"its batch stays {held.max_batch}" if stays else "its pods stay"


def gpu_text(count: int) -> str:
    """Return a count of GPUs as people write it."""
    return "1 GPU" if count == 1 else f"{count} GPUs"


def batch_note(one: Deployment) -> str:
    """Return what to say of a Deployment whose batch size stays as it is, if it does."""
    if not (argument := one.batch_fixed):
        return ""
    if one.recreated and one.annotations.get(names.APPLY_MAX_BATCH):
        return (
            f"{one.server}: its batch stays {one.max_batch}, as its strategy is Recreate: a change "
            "of its template ends all its pods at once, and so does a move to another accelerator"
        )
    if batch_in_force(one.annotations, one.pod_spec) is None:
        return (
            f"{one.server}: its batch stays {one.max_batch}, as its label says: what {argument} "
            "has in its command line is not known"
        )
    return (
        f"{one.server}: its batch stays {one.max_batch}, as {argument} says (annotation "
        f"{names.APPLY_MAX_BATCH}: {argument} lets the loop change that)"
    )


def gpus_note(deployment: Deployment, *, gpus: GpuCounts) -> str:
    """Return what to say of a Deployment whose pods ask for so many GPUs that it may not run on
    each accelerator of its model, or not on the one it is said to have; nothing if all is well.
    """
    asked, fixed = deployment.gpus, deployment.gpus_fixed
    lines = []
    if asked is None and deployment.pod_spec.get("resourceClaims"):
        lines.append("its pods get devices by resource claims: the GPUs of these are not counted")
    needed = gpus.get((deployment.model, deployment.accelerator))
    if asked is not None and needed not in (None, asked.count):
        lines.append(
            f"its pods ask for {gpu_text(asked.count)}, and {deployment.accelerator} is "
            f"{gpu_text(needed or 0)}"
        )
    holding = gpu_limits(side_by_side(deployment.pod_spec))
    if asked is not None and len(holding) > 1:
        named = ", ".join(one.container for one in holding)
        lines.append(
            f"its pods have {sum(one.count for one in holding)} GPUs in {named}: a replica is "
            f"planned for as {asked.container} alone, of {gpu_text(asked.count)}"
        )
    counts = {gpus[key] for key in gpus if key[0] == deployment.model}
    if fixed is not None and not counts <= {fixed}:
        lines.append(
            f"only accelerators of {gpu_text(fixed)} are considered, as its pods ask for "
            f'(annotation {names.APPLY_GPUS}: "true" lets the loop change that)'
        )
    return f"{deployment.server}: {'; '.join(lines)}" if lines else ""


def _gpus_problem(deployment: Deployment, desired: Pool, *, gpus: GpuCounts) -> str:
    """Return why the pods of *deployment* cannot run on another accelerator, or nothing."""
    asked = deployment.gpus
    if asked is None or desired.accelerator == deployment.accelerator:
        return ""
    needed = gpus.get((deployment.model, desired.accelerator))
    if deployment.applies_gpus:
        if needed is None and gpus:
            return f"stays: the data do not know the GPUs of {desired.accelerator}"
        return ""
    if needed is None or needed == asked.count:
        return ""
    return (
        f"does not move to {desired.accelerator}: that is {gpu_text(needed)}, and its pods ask for "
        f"{asked.count}"
    )


def _moves(template: Json) -> bool:
    """Tell whether a change of the pod template puts pods on other GPUs."""
    return "nodeSelector" in template or any(
        "resources" in container for container in template.get("containers") or ()
    )


def _template_changed(deployment: Deployment) -> datetime | None:
    """Return when the loop last changed the pod template, by the status annotation."""
    try:
        date = datetime.fromisoformat(_status(deployment)["templateTime"])
    except (KeyError, ValueError, TypeError):
        return None
    # Without its zone it is compared with nothing.
    return date if date.tzinfo is not None else None


def contest_before(deployment: Deployment, *, epoch_s: float) -> Contest:
    """Return what the status annotation of *deployment* says of others who undid what was asked;
    *epoch_s* is the date of second 0 [Unix time].

    A controller that is started again would else begin the contest anew, for ever.
    """
    told = _status(deployment)
    try:
        date, undone = datetime.fromisoformat(told["undoneTime"]), int(told["undone"])
    except (KeyError, ValueError, TypeError, OverflowError):
        return Contest()
    if date.tzinfo is None or not 0 < undone <= UNDONE_MAX:
        return Contest()
    return Contest(undone=undone, last_s=date.timestamp() - epoch_s)


def measured_by(deployment: Deployment) -> str:
    """Return what measured the load of *deployment* when the loop last asked for something, by its
    status annotation; "" if it does not tell.

    A controller that was started again would else take labels for the load of a server that had
    been measured all the time.
    """
    return str(_status(deployment).get("loadSource") or "")


def _template_date(deployment: Deployment) -> str:
    before = _template_changed(deployment)
    return before.isoformat(timespec="seconds") if before else ""


def status_text(
    desired: Pool,
    *,
    was: Pool,
    reason: str,
    date: str,
    source: str = "",
    template_date: str = "",
    undone: int = 0,
    undone_date: str = "",
) -> str:
    """Return the status annotation: what was asked for, when, instead of what, why, by whose
    figures, when the pod template was last changed, and how often in a row others have undone what
    was asked, the last time when.
    """
    told = {
        "accelerator": desired.accelerator,
        "replicas": desired.replicas,
        "maxBatch": desired.max_batch,
        "was": pool_text(was),
        "reason": reason[:REASON_MAX],
        "time": date,
    }
    more: Json = {"loadSource": source, "templateTime": template_date}
    if undone:
        more |= {"undone": undone, "undoneTime": undone_date}
    return json.dumps(
        told | {key: value for key, value in more.items() if value}, ensure_ascii=False
    )


def change_event(
    deployment: Deployment, desired: Pool, *, reason: str, date: str
) -> dict[str, Any]:
    """Return the Event of *deployment* having been asked to become *desired*."""
    message = f"Asked for {pool_text(desired)} instead of {pool_text(held_by(deployment))}" + (
        f": {reason}" if reason else ""
    )
    return _event(deployment, message, kind="Normal", reason="InfernoAllocation", date=date)


def missing_event(deployment: Deployment, message: str, *, date: str) -> Json:
    """Return the Event of pods of *deployment* that do not come."""
    return _event(deployment, message, kind="Warning", reason="InfernoMissing", date=date)


def _event(deployment: Deployment, message: str, *, kind: str, reason: str, date: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{deployment.name}.", "namespace": deployment.namespace},
        "involvedObject": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "namespace": deployment.namespace,
            "name": deployment.name,
            "uid": deployment.uid,
            "resourceVersion": deployment.version,
        },
        "type": kind,
        "reason": reason,
        "message": message[:MESSAGE_MAX],
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "firstTimestamp": date,
        "lastTimestamp": date,
        "count": 1,
    }


def others_changed(now: Deployment, seen: Deployment) -> str:
    """Return what others did to a Deployment since it was *seen* that the loop must not write over,
    or nothing.
    """
    if now.uid != seen.uid:
        return "deleted and made anew by someone else"
    if not now.managed or now.claim != seen.claim:
        return "no longer managed under this name"
    if now.leaving:
        return "it is being deleted"
    if now.paused:
        return f'annotation {names.PAUSED} is "true"'
    if held_by(now) != held_by(seen):
        by = manager_of(now, replicas=now.wanted != seen.wanted)
        return (
            f"changed by {by} from {pool_text(held_by(seen))} "
            f"to {pool_text(held_by(now))} meanwhile"
        )
    return ""


def manager_of(deployment: Deployment, *, replicas: bool) -> str:
    """Return who else wrote the *replicas*, or else the labels, as far as the object tells.

    Who writes a field takes it from its owner. An entry of the scale subresource, by which
    autoscalers and kubectl scale write, carries no time.
    """
    owned = [
        (replicas and _owns_replicas(fields), entry.get("time") or LATEST, entry["manager"])
        for entry in deployment.field_owners
        for fields in [entry.get("fieldsV1") or {}]
        if entry.get("manager") not in (None, "", MANAGER)
        and (_owns_replicas(fields) or _owns_labels(fields))
    ]
    return str(max(owned)[2]) if owned else "someone else"


def foreign_change(deployment: Deployment, asked: Pool | None) -> str:
    """Return the line that says that *deployment* is not what was *asked* of it, or nothing."""
    held = held_by(deployment)
    if asked is None or asked == held:
        return ""
    by = manager_of(deployment, replicas=asked.replicas != held.replicas)
    return f"{pool_text(asked)} was asked for, found {pool_text(held)}: changed by {by}"


def _owns_replicas(fields: Mapping[str, Any]) -> bool:
    return "f:replicas" in (fields.get("f:spec") or {})


def _owns_labels(fields: Mapping[str, Any]) -> bool:
    labels = (fields.get("f:metadata") or {}).get("f:labels") or {}
    return not {f"f:{names.ACCELERATOR}", f"f:{names.MAX_BATCH}"}.isdisjoint(labels)


def _possible_patch(
    deployment: Deployment, desired: Pool, *, types: Mapping[str, str], gpus: GpuCounts
) -> Json:
    """Return what to change in the pods; nothing for a change of replicas only, if an annotation
    asks for what cannot be.
    """
    held = held_by(deployment)
    try:
        return _template_patch(deployment, desired, types=types, gpus=gpus)
    except UnfitError:
        if (desired.accelerator, desired.max_batch) != (held.accelerator, held.max_batch):
            raise
        return {}


def _template_patch(
    deployment: Deployment, desired: Pool, *, types: Mapping[str, str], gpus: GpuCounts
) -> Json:
    """Return what to change in the pods, where annotations ask for it; pods are then replaced, a
    few at a time.
    """
    patch: Json = {}
    selector = node_selector(deployment, desired.accelerator, types=types)
    if selector and any(
        (deployment.pod_spec.get("nodeSelector") or {}).get(key) != selector[key]
        for key in selector
    ):
        patch["nodeSelector"] = selector
    present = list(deployment.pod_spec.get("containers") or ())
    changes = _batch_patch(deployment, desired, present)
    limit = deployment.gpus
    needed = gpus.get((deployment.model, desired.accelerator))
    if deployment.applies_gpus and limit is not None and needed:
        # The arguments may have been changed just now: both stand in one list.
        present = [
            with_changes(one, changes.get(str(one.get("name") or ""), {})) for one in present
        ]
        try:
            container = with_gpus(present, limit, needed)
        except ValueError as error:
            raise UnfitError(f"annotation {names.APPLY_GPUS}: {error}") from None
        if container:
            before = changes.get(limit.container, {})
            changes = {**changes, limit.container: with_changes(before, container)}
    if changes:
        patch["containers"] = list(changes.values())
    return patch


def _batch_patch(
    deployment: Deployment, desired: Pool, containers: Sequence[Mapping[str, Any]]
) -> dict[str, Json]:
    """Return what to change in *containers*, by name, so that the batch is the desired one."""
    argument = deployment.annotations.get(names.APPLY_MAX_BATCH, "").strip()
    if not argument or desired.max_batch <= 0:
        return {}
    try:
        container = changed(
            containers,
            argument,
            max(desired.max_batch // _engines(deployment), 1),
            container=deployment.annotations.get(names.APPLY_CONTAINER, ""),
        )
    except ValueError as error:
        if desired.max_batch == deployment.max_batch:
            return {}
        raise UnfitError(f"annotation {names.APPLY_MAX_BATCH}: {error}") from None
    return {container["name"]: dict(container)} if container else {}


def _engines(deployment: Deployment) -> int:
    """Return how many engines of a pod have what the loop writes as their batch each."""
    said = deployment.annotations
    return engines_of(
        deployment.pod_spec.get("containers") or (),
        said.get(names.APPLY_MAX_BATCH, "").strip(),
        container=said.get(names.APPLY_CONTAINER, ""),
    )


def tenant_of(
    server: Server, *, types: Mapping[str, str] = NO_TYPES, gpus: GpuCounts = NO_COUNTS
) -> Tenant:
    """Return *server* as nodes see it; *types* and *gpus* as in `patch_of`."""
    one, asked = server.deployment, server.deployment.gpus
    return Tenant(
        type=types.get(one.accelerator, ""),
        replica_gpus=gpus.get((one.model, one.accelerator), 0),
        name=server.name,
        pods=server.pods,
        pod_spec=one.pod_spec,
        resource=asked.resource if asked else "",
        gpus=asked.count if asked else 0,
        alone=one.apart,
        selector_key=one.annotations.get(names.APPLY_NODE_SELECTOR, "").strip().partition("=")[0],
    )


def node_selector(
    deployment: Deployment, accelerator: str, *, types: Mapping[str, str]
) -> dict[str, str]:
    """Return the nodeSelector that the annotation asks for: KEY, or KEY=TEXT with {type} or
    {accelerator} in it.
    """
    asked = deployment.annotations.get(names.APPLY_NODE_SELECTOR, "").strip()
    if not asked or not accelerator:
        return {}
    key, _, text = asked.partition("=")
    value = (text or "{type}").replace("{type}", types.get(accelerator, accelerator))
    value = value.replace("{accelerator}", accelerator)
    if problem := names.value_problem(value):
        raise UnfitError(f"annotation {names.APPLY_NODE_SELECTOR}: {problem}")
    return {key.strip(): value}
