"""What may be a name, a label key and a label value: each check returns what is wrong, or
nothing.
"""

from __future__ import annotations

import re

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
