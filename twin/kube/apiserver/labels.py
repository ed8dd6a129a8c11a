"""Names, labels and selectors: what may be one, and which objects a selector means."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twin.kube.apiserver.errors import bad_request
from twin.kube.apiserver.objects import Json, at_path, labels_of
from twin.kube.apiserver.resources import Resource

_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

LABEL_MAX, SUBDOMAIN_MAX = 63, 253


def label_value_problem(value: str) -> str:
    """Say what is wrong with the value of a label."""
    if len(value) > LABEL_MAX:
        return f"must be no more than {LABEL_MAX} characters"
    if value and not _WORD.fullmatch(value):
        return (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' "
            "or '.', and must "
            "start and end with an alphanumeric character"
        )
    return ""


def label_key_problem(key: str) -> str:
    """Say what is wrong with the key of a label or an annotation: [DNS prefix/]name."""
    prefix, slash, name = key.rpartition("/")
    if slash and subdomain_problem(prefix):
        return f"prefix part {subdomain_problem(prefix)}"
    if not name or len(name) > LABEL_MAX or not _WORD.fullmatch(name):
        return (
            f"name part must consist of at most {LABEL_MAX} alphanumeric characters, '-', '_' or "
            "'.', and must start "
            "and end with an alphanumeric character"
        )
    return ""


def subdomain_problem(name: str) -> str:
    """Say what is wrong with the name of most objects."""
    if len(name) > SUBDOMAIN_MAX or not _SUBDOMAIN.fullmatch(name):
        return (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, "
            "'-' or '.', and must "
            "start and end with an alphanumeric character"
        )
    return ""


def dns_label_problem(name: str) -> str:
    """Say what is wrong with the name of a namespace, a container or a service."""
    if len(name) > LABEL_MAX or not _DNS_LABEL.fullmatch(name):
        return (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
            "and must start and "
            "end with an alphanumeric character"
        )
    return ""


Matches = Callable[[Json], bool]

_TERM = re.compile(
    r"""\s*(?:
        (?P<not>!)\s*(?P<absent>[^\s!=<>,()]+)
      | (?P<key>[^\s!=<>,()]+)\s*
        (?: (?P<set>in|notin)\s*\((?P<values>[^()]*)\)
          | (?P<op>==|=|!=|<|>)\s*(?P<value>[^\s!=<>,()]*)
        )?
    )\s*(?:,(?=.)|$)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One term of a label selector: operator is in, notin, exists, absent, gt or lt."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether *labels* fulfil this term; a label that is missing is unequal to every
        value.
        """
        value = labels.get(self.key)
        if self.operator == "exists":
            return value is not None
        if self.operator == "absent":
            return value is None
        if self.operator == "in":
            return value in self.values
        if self.operator == "notin":
            return value not in self.values
        (bound,) = self.values
        if value is None or not re.fullmatch(r"-?\d+", value):
            return False
        return int(value) > int(bound) if self.operator == "gt" else int(value) < int(bound)


def label_selector(text: str) -> tuple[Requirement, ...]:
    """Parse *text*, as in `app=x,tier in (a,b),!old`. Raise ApiError 400 for anything else."""
    found: list[Requirement] = []
    position = 0
    while position < len(text.rstrip()):
        term = _TERM.match(text, position)
        if term is None or term.end() == position:
            raise bad_request(f"unable to parse requirement: found {text[position:]!r} in {text!r}")
        found.append(_requirement(term, text))
        position = term.end()
    return tuple(found)


def _requirement(term: re.Match[str], text: str) -> Requirement:
    key, operator, values = term["absent"] or term["key"], "exists", frozenset[str]()
    if term["absent"]:
        operator = "absent"
    elif term["set"]:
        operator, values = (
            term["set"],
            frozenset(value.strip() for value in term["values"].split(",")),
        )
    elif term["op"]:
        operator = {"=": "in", "==": "in", "!=": "notin", ">": "gt", "<": "lt"}[term["op"]]
        values = frozenset({term["value"]})
    problem = label_key_problem(key) or next(
        filter(None, map(label_value_problem, sorted(values))), ""
    )
    if operator in ("gt", "lt") and not re.fullmatch(r"-?\d+", term["value"]):
        problem = f"for '>' and '<' the value must be an integer, got {term['value']!r}"
    if problem:
        raise bad_request(f"unable to parse requirement: {problem} in {text!r}")
    return Requirement(key=key, operator=operator, values=values)


def selector_of(spec: Mapping[str, Any] | None) -> tuple[Requirement, ...]:
    """Return the requirements of a LabelSelector object (matchLabels, matchExpressions); none
    selects everything.
    """
    spec = spec or {}
    words = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
    return (
        *(
            Requirement(key=k, operator="in", values=frozenset({v}))
            for k, v in (spec.get("matchLabels") or {}).items()
        ),
        *(
            Requirement(
                key=e["key"], operator=words[e["operator"]], values=frozenset(e.get("values") or ())
            )
            for e in spec.get("matchExpressions") or ()
        ),
    )


def fulfils(labels: Mapping[str, str], requirements: tuple[Requirement, ...]) -> bool:
    """Tell whether *labels* fulfil all *requirements*."""
    return all(requirement.matches(labels) for requirement in requirements)


def field_selector(text: str, resource: Resource) -> tuple[tuple[str, bool, str], ...]:
    """Parse *text*, as in `metadata.name=x,status.phase!=Running`, into (path, equal, value). Raise
    ApiError 400.
    """
    allowed = ("metadata.name", "metadata.namespace", *resource.fields)
    found = []
    for term in filter(None, text.split(",")):
        parts = re.fullmatch(r"\s*([^=!\s]+)\s*(==|=|!=)\s*(.*?)\s*", term)
        if parts is None:
            raise bad_request(f"invalid selector: {text!r}; can't understand {term!r}")
        if parts[1] not in allowed:
            raise bad_request(
                f'Unable to find "{resource.api_version}, Resource={resource.plural}" that match '
                'label selector "", '
                f'field selector "{text}": field label not supported: {parts[1]}'
            )
        found.append((parts[1], parts[2] != "!=", parts[3]))
    return tuple(found)


def matcher(resource: Resource, *, labels: str = "", fields: str = "") -> Matches:
    """Return the test for both selectors of a request. Raise ApiError 400 where one cannot be
    read.
    """
    requirements, terms = label_selector(labels), field_selector(fields, resource)

    def matches(obj: Json) -> bool:
        return fulfils(labels_of(obj), requirements) and all(
            (str(at_path(obj, path) or "") == value) == equal for path, equal, value in terms
        )

    return matches
