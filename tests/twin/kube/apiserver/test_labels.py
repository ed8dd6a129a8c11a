"""Selectors: every form that kubectl and controllers use, and nothing else."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.labels import (
    field_selector,
    fulfils,
    label_selector,
    matcher,
    selector_of,
)
from twin.kube.apiserver.resources import EVENTS, PODS

LABELS = {"app": "x", "tier": "a", "n": "5", "example.com/on": ""}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", True),
        ("app=x", True),
        ("app==x,tier=a", True),
        (" app = x , tier != b ", True),
        ("app=y", False),
        ("gone!=y", True),
        ("app in (x,y)", True),
        ("app in(y)", False),
        ("app notin (y, z)", True),
        ("gone notin (y)", True),
        ("example.com/on", True),
        ("example.com/on=", True),
        ("!gone", True),
        ("! app", False),
        ("n>4,n<6", True),
        ("n>5", False),
        ("app>1", False),
        ("gone>1", False),
        ("in", False),
        ("app in (x),!gone,tier", True),
    ],
)
def test_label_selectors_mean_what_kubernetes_means(text: str, meant: bool) -> None:
    """A missing label is unequal to every value, and greater than none."""
    assert fulfils(LABELS, label_selector(text)) is meant


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        ",",
        "a,",
        "a,,b",
        "=x",
        "!",
        "a in x",
        "a in (x",
        "a=b=c",
        "a>x",
        "a!",
        "(a)",
        "a=x y",
        "/a",
        "a/",
        "a=.x",
    ],
)
def test_what_is_no_label_selector_is_refused(text: str) -> None:
    """Reading it as something smaller would select too much."""
    with pytest.raises(ApiError) as error:
        label_selector(text)
    assert (error.value.code, error.value.reason) == (400, "BadRequest")


@given(st.text(alphabet="ab=!,() in>/.-", max_size=20))
def test_no_text_breaks_the_parser(text: str) -> None:
    """It answers, or it refuses."""
    with suppress(ApiError):
        assert all(requirement.key for requirement in label_selector(text))


@given(st.dictionaries(st.sampled_from("abc"), st.sampled_from(["1", "2"]), max_size=3))
def test_a_selector_object_means_the_same_as_its_text(labels: dict[str, str]) -> None:
    """Deployments carry objects, queries carry text."""
    spec = {
        "matchLabels": {"a": "1"},
        "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["1", "2"]},
            {"key": "c", "operator": "DoesNotExist"},
            {"key": "a", "operator": "NotIn", "values": ["2"]},
            {"key": "a", "operator": "Exists"},
        ],
    }
    text = "a=1,b in (1,2),!c,a notin (2),a"
    assert fulfils(labels, selector_of(spec)) == fulfils(labels, label_selector(text))


def test_field_selectors_read_what_is_indexed_of_each_kind() -> None:
    """kubectl describe asks for the events of one object."""
    event = {
        "metadata": {"name": "e", "namespace": "n"},
        "involvedObject": {"kind": "Pod", "name": "p", "uid": "1"},
        "type": "Normal",
    }
    matches = matcher(
        EVENTS,
        fields="involvedObject.name=p,involvedObject.kind==Pod,type!=Warning,metadata.name=e",
    )
    assert matches(event)
    assert not matches(event | {"type": "Warning"})
    assert matcher(PODS, fields="spec.nodeName=")({"metadata": {"name": "p"}, "spec": {}})


@pytest.mark.parametrize(
    "text", ["spec.replicas=1", "metadata.uid=1", "metadata.name", "metadata.name>a"]
)
def test_what_is_no_field_selector_is_refused(text: str) -> None:
    """A field that is not indexed, or no comparison."""
    with pytest.raises(ApiError) as error:
        field_selector(text, PODS)
    assert error.value.code == 400
