"""The memory of the API server: versions, history, lists as they were, and how objects get their
identity.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.listwatch import list_objects
from twin.kube.apiserver.objects import Json, name_of
from twin.kube.apiserver.resources import CONFIG_MAPS, DEPLOYMENTS, PODS
from twin.kube.apiserver.storage import Change, Commits, Dates, Store, suffix


def config_map(name: str, **labels: str) -> Json:
    """Return a small object."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "n", "labels": labels},
    }


def commits_of(store: Store) -> Commits:
    """Return writes to *store* in a world whose time stands still."""
    dates = Dates(datetime(2026, 1, 1, tzinfo=UTC), speed=1.0, now_s=lambda: 0.0)
    return Commits(store, dates=dates)


def test_every_change_has_a_version_of_its_own_over_all_kinds() -> None:
    """Clients compare versions; a list has that of the store."""
    store = Store()
    first = store.put(CONFIG_MAPS, config_map("a"))
    other = store.put(PODS, {"metadata": {"name": "p", "namespace": "n"}})
    gone = store.remove(CONFIG_MAPS, first)
    versions = [int(obj["metadata"]["resourceVersion"]) for obj in (first, other, gone)]
    assert versions == sorted(set(versions))
    assert store.version == versions[-1]
    assert store.get(CONFIG_MAPS, "n", "a") is None


def test_changes_after_a_version_come_in_order_and_of_one_kind() -> None:
    """A watch goes on where a list ended."""
    store = Store()
    a = store.put(CONFIG_MAPS, config_map("a"))
    begin = store.version
    store.put(PODS, {"metadata": {"name": "p", "namespace": "n"}})
    store.put(CONFIG_MAPS, {**a, "data": {"x": "1"}})
    store.remove(CONFIG_MAPS, a)
    changes = store.since(CONFIG_MAPS, begin)
    assert [change.type for change in changes] == ["MODIFIED", "DELETED"]
    assert [change.old is not None for change in changes] == [True, True]
    assert store.since(CONFIG_MAPS, store.version) == []


def test_listeners_hear_of_everything_at_once() -> None:
    """Controllers and watches hang on them."""
    store, heard = Store(), list[Change]()
    store.listeners.append(heard.append)
    store.put(CONFIG_MAPS, config_map("a"))
    assert [(change.type, name_of(change.new)) for change in heard] == [("ADDED", "a")]


def test_history_is_bounded_per_kind_and_older_versions_answer_410() -> None:
    """Many changes of pods must not end the watches of Deployments."""
    store = Store(history_max=3)
    begin = store.version
    obj = store.put(CONFIG_MAPS, config_map("a"))
    for number in range(5):
        store.put(PODS, {"metadata": {"name": f"p{number}", "namespace": "n"}})
    assert [change.new for change in store.since(CONFIG_MAPS, begin)] == [obj]
    with pytest.raises(ApiError) as error:
        store.since(PODS, begin)
    assert (error.value.code, error.value.reason) == (410, "Expired")
    assert len(store.since(PODS, store.version - 3)) == 3


def test_old_changes_are_forgotten_but_for_the_last_hundred() -> None:
    """A twin that runs for days must not keep whole objects for ever; a watch that broke for a
    moment goes on.
    """
    now_s = [0.0]
    store = Store(now_s=lambda: now_s[0])
    for number in range(500):
        now_s[0] += 1.0
        store.put(CONFIG_MAPS, config_map("a", number=str(number)))
    assert len(store.since(CONFIG_MAPS, store.version - 299)) == 299  # of five minutes
    for number in range(200):
        now_s[0] += 60.0
        store.put(CONFIG_MAPS, config_map("a", number=str(number)))
    assert len(store.since(CONFIG_MAPS, store.version - 100)) == 100
    with pytest.raises(ApiError):
        store.since(CONFIG_MAPS, store.version - 102)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=30),
    st.integers(min_value=0, max_value=29),
)
def test_a_list_of_the_past_is_what_was_listed_then(
    script: list[tuple[str, bool]], moment: int
) -> None:
    """Pages of one list must fit together, whatever happens between them."""
    store = Store()
    version, expected = store.version, store.items(CONFIG_MAPS)
    for number, (name, put) in enumerate(script):
        there = store.get(CONFIG_MAPS, "n", name)
        if put:
            store.put(CONFIG_MAPS, config_map(name, number=str(number)))
        elif there is not None:
            store.remove(CONFIG_MAPS, there)
        if number == moment:
            version, expected = store.version, store.items(CONFIG_MAPS)
    assert store.items_at(CONFIG_MAPS, version) == expected


def test_pages_that_are_too_old_answer_410() -> None:
    """The client has to begin again."""
    store = Store()
    for name in "abc":
        store.put(CONFIG_MAPS, config_map(name))
    first = list_objects(store, CONFIG_MAPS, "n", {"limit": "1"})
    assert (first["metadata"]["remainingItemCount"], len(first["items"])) == (2, 1)
    store.put(CONFIG_MAPS, config_map("d"))
    store.compact()
    with pytest.raises(ApiError) as error:
        list_objects(
            store, CONFIG_MAPS, "n", {"limit": "1", "continue": first["metadata"]["continue"]}
        )
    assert error.value.code == 410


def test_a_new_object_has_identity_date_and_generation_of_its_own() -> None:
    """Whatever the client says they are."""
    commits = commits_of(Store())
    body = config_map("a")
    body["metadata"] |= {
        "uid": "mine",
        "creationTimestamp": "1999-01-01T00:00:00Z",
        "generation": 7,
    }
    made = commits.create(CONFIG_MAPS, body)["metadata"]
    assert (made["creationTimestamp"], "generation" in made) == ("2026-01-01T00:00:00Z", False)
    other = commits.create(CONFIG_MAPS, config_map("b"))["metadata"]
    assert len({made["uid"], other["uid"], "mine"}) == 3
    assert body["metadata"]["uid"] == "mine"


def test_a_change_of_nothing_is_none() -> None:
    """Not even if an owner of fields wrote it again; but a new owner is a change."""
    commits = commits_of(Store())
    made = commits.create(CONFIG_MAPS, config_map("a"))

    def owned(manager: str, time: str) -> Json:
        fields = [{"manager": manager, "time": time}]
        return {**made, "metadata": {**made["metadata"], "managedFields": fields}}

    first = commits.change(CONFIG_MAPS, made, owned("x", "now"))
    assert first["metadata"]["managedFields"][0]["manager"] == "x"
    assert commits.change(CONFIG_MAPS, first, owned("x", "later")) is first
    assert commits.change(CONFIG_MAPS, first, owned("y", "later")) is not first


def test_the_annotations_of_a_deployment_count_as_its_desired_state_but_not_its_status() -> None:
    """So it is on a real server, and controllers that write annotations have to live with it."""
    commits = commits_of(Store())
    made = commits.create(
        DEPLOYMENTS, {"metadata": {"name": "d", "namespace": "n"}, "spec": {"replicas": 1}}
    )
    noted = commits.status(DEPLOYMENTS, made, {"replicas": 1}, annotations={"by": "controller"})
    assert (noted["metadata"]["generation"], noted["metadata"]["annotations"]) == (
        1,
        {"by": "controller"},
    )
    annotated = {**noted, "metadata": {**noted["metadata"], "annotations": {"by": "user"}}}
    assert commits.change(DEPLOYMENTS, noted, annotated)["metadata"]["generation"] == 2


def test_finalizers_keep_an_object_until_they_are_gone() -> None:
    """The controller that put them there has something to finish first."""
    store = Store()
    commits = commits_of(store)
    body = config_map("a")
    body["metadata"]["finalizers"] = ["example.com/wait"]
    made = commits.create(CONFIG_MAPS, body)
    marked = commits.mark_deleted(CONFIG_MAPS, made)
    assert commits.mark_deleted(CONFIG_MAPS, marked) is marked
    assert store.get(CONFIG_MAPS, "n", "a") is marked
    freed = {**marked, "metadata": {**marked["metadata"], "finalizers": []}}
    commits.change(CONFIG_MAPS, marked, freed)
    assert store.get(CONFIG_MAPS, "n", "a") is None


def test_generated_names_are_letters_that_make_no_words_and_differ() -> None:
    """They become names of pods."""
    endings = {suffix(str(number)) for number in range(1000)}
    assert len(endings) > 990
    assert not set("".join(endings)) & set("aeiou")
    assert {len(ending) for ending in endings} == {5}
