"""The settings of a container: an argument of its command line and its GPUs; where they stand,
what they are, and how they are changed; pure.

An argument may be a word of its own, with its value behind it or behind a =, or stand inside a
command for a shell (`sh -c "vllm serve m --max-num-seqs 256"`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twin.magnitudes import whole

Json = Mapping[str, Any]

SHELLS = ("sh", "bash", "ash", "dash", "zsh")
# The resources that are GPUs.
GPU_RESOURCES = (
    "nvidia.com/gpu",
    "amd.com/gpu",
    "habana.ai/gaudi",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
    "ibm.com/aiu_pf",
)
# Slices of a GPU, and shares of one that the device plugin gives a name of its own.
_PART = re.compile(r"nvidia\.com/(?:mig-.+|gpu\.shared)")
# How vLLM and SGLang are told to use several GPUs for one model.
TENSOR_PARALLEL = ("--tensor-parallel-size", "-tp", "--tp-size", "--tp")


def is_gpu(resource: str) -> bool:
    """Tell whether a *resource* is GPUs, or parts of them."""
    return resource in GPU_RESOURCES or _PART.fullmatch(resource) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an argument stands: in which list of which container, in which word, and its value.

    value is "" if it is there without a number of its own (a variable of the shell, say).
    """

    container: str
    key: str
    index: int
    value: str
    inside: bool


def find(containers: Sequence[Json], argument: str) -> Place | None:
    """Return where *argument* (--name) stands in the command lines of *containers*; of one that is
    given twice, the place that counts: the last of its container.
    """
    for container in containers:
        places = [
            place
            for key in ("command", "args")
            for index in range(len(container.get(key) or ()))
            if (place := _place(container, key, index, argument)) is not None
        ]
        if places:
            return places[-1]
    return None


def _place(container: Json, key: str, index: int, argument: str) -> Place | None:
    """Return where *argument* stands in one word of *container*."""
    words = [str(word) for word in container[key]]
    word, inside = words[index], False
    name, equals, told = word.partition("=")
    if _same(name, argument) and not equals:
        value = words[index + 1] if index + 1 < len(words) else ""
    elif _same(name, argument):
        value = told
    else:
        found = _last_inside(argument, word)
        if found is None:
            return None
        value, inside = found["value"].strip("\"'"), True
    return Place(
        container=str(container.get("name") or ""),
        key=key,
        index=index,
        value="" if whole(value) is None else value,
        inside=inside,
    )


def value_of(containers: Sequence[Json], argument: str) -> int | None:
    """Return the number that *argument* has, None if it has none."""
    place = find(containers, argument)
    return int(place.value) if place is not None and place.value else None


def text_of(containers: Sequence[Json], argument: str) -> str:
    """Return the text that *argument* has in the command lines of *containers*, "" if it has
    none; of one that is given twice, the last.
    """
    found = ""
    for words in map(command_words, containers):
        for index, word in enumerate(words):
            name, equals, told = word.partition("=")
            if _same(name, argument):
                following = words[index + 1] if index + 1 < len(words) else ""
                found = told if equals else "" if following.startswith("-") else following
    return found


def command_words(container: Json) -> list[str]:
    """Return the words of the command line of *container*, those of a command for a shell too."""
    words: list[str] = []
    for key in ("command", "args"):
        for word in container.get(key) or ():
            text = str(word)
            try:
                parts = shlex.split(text, comments=True) if re.search(r"\s", text) else [text]
            except ValueError:  # a quote that nobody closes
                parts = text.split()
            words += parts
    return words


def changed(containers: Sequence[Json], argument: str, value: int, *, container: str) -> Json:
    """Return the container, with its name, that changes so that *argument* has *value*; nothing if
    it has it. Raise ValueError, with the reason, if it cannot be changed.

    *container*: the one that the user named, "" for the one that has the argument, else the one
    that asks for GPUs, else the first.
    """
    named = [one for one in containers if not container or one.get("name") == container]
    if not named:
        raise ValueError(f"expected the name of a container, found {container!r}")
    place = find(named, argument)
    if place is None:
        return _added(_likeliest(named), argument, value)
    owner = next(one for one in named if str(one.get("name") or "") == place.container)
    words = [str(word) for word in owner.get(place.key) or ()]
    if not place.value:
        raise ValueError(f"{argument} has no number of its own in {words[place.index]!r:.60}")
    if int(place.value) == value:
        return {}
    word = words[place.index]
    if place.inside:
        found = _last_inside(argument, word)
        assert found is not None, word
        start, end = found.span("value")
        number = found["value"].replace(place.value, str(value))
        words[place.index] = word[:start] + number + word[end:]
    elif "=" not in word:
        words[place.index + 1] = str(value)
    else:
        words[place.index] = f"{word.partition('=')[0]}={value}"
    return {"name": owner["name"], place.key: words}


def _added(container: Json, argument: str, value: int) -> Json:
    """Return *container* with *argument* behind its others; a shell would not read it there."""
    command = [str(word) for word in container.get("command") or ()]
    arguments = [str(word) for word in container.get("args") or ()]
    words = iter([*command, *arguments])
    # Others may stand before the shell (tini, env), and further letters before the c (bash -exc).
    shell = any(word.rsplit("/", 1)[-1] in SHELLS for word in words)
    if shell and any(re.fullmatch(r"-[a-z]*c", word) for word in words):
        raise ValueError(f"the shell command of {container.get('name')} has no {argument}")
    return {"name": container["name"], "args": [*arguments, f"{argument}={value}"]}


def _likeliest(containers: Sequence[Json]) -> Json:
    asks = gpu_limit(containers)
    name = asks.container if asks else containers[0].get("name")
    return next(one for one in containers if one.get("name") == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLimit:
    """The GPUs of one container."""

    container: str
    resource: str
    count: int


def gpu_limits(containers: Sequence[Json]) -> list[GpuLimit]:
    """Return the GPUs of each of *containers* that has any."""
    return [
        GpuLimit(container=str(one.get("name") or ""), resource=resource, count=number)
        for one in containers
        for resource, quantity in limits_of(one).items()
        if is_gpu(resource) and (number := count(quantity)) > 0
    ]


def gpu_limit(containers: Sequence[Json], *, container: str = "") -> GpuLimit | None:
    """Return the GPUs of the container that has the most of them; None if none has any.

    *container*: look at this one only, if it has GPUs.
    """
    found = gpu_limits(containers)
    named = [one for one in found if one.container == container]
    return max(named or found, key=lambda one: one.count, default=None)


def with_gpus(containers: Sequence[Json], limit: GpuLimit, number: int) -> Json:
    """Return what changes of the container of *limit*, with its name, so that it has *number* GPUs;
    nothing if it has.

    An engine that is told in so many words to use all of them is told to use as many as it has.
    """
    if limit.count == number:
        return {}
    owner = next(one for one in containers if str(one.get("name") or "") == limit.container)
    resources = owner.get("resources") or {}
    asked = {
        key: {limit.resource: str(number)}
        for key in ("limits", "requests")
        if limit.resource in (resources.get(key) or {})
    }
    patch: dict[str, Any] = {"name": limit.container, "resources": asked}
    for argument in TENSOR_PARALLEL:
        if value_of([owner], argument) == limit.count:
            return patch | dict(changed([owner], argument, number, container=limit.container))
    return patch


def limits_of(container: Json) -> Json:
    """Return the resources that *container* may have: an extended one is as much as it requests."""
    resources = container.get("resources") or {}
    limits: Json = resources.get("limits") or resources.get("requests") or {}
    return limits


def count(quantity: object) -> int:
    """Return a count of GPUs; a quantity that is none (GPUs have no fractions) counts for
    nothing.
    """
    return whole(str(quantity)) or 0


def _same(name: str, argument: str) -> bool:
    """Tell whether *name* is *argument*: engines take - and _ for each other."""
    return name.startswith("-") and name.replace("_", "-") == argument.replace("_", "-")


def _last_inside(argument: str, word: str) -> re.Match[str] | None:
    """Return where *argument* and its value stand inside *word* last, which is what counts; what a
    shell takes for a comment does not.
    """
    name = re.sub("[-_]", "[-_]", re.escape(argument).replace("\\-", "-"))
    gap = r"(?:=|(?:\s|\\\n)+)"
    pattern = rf"(?<!\S){name}{gap}(?P<value>[\"']?[^\s\"';&|\\]+[\"']?)"
    comments = [found.span() for found in re.finditer(r"(?<!\S)#[^\n]*", word)]
    return max(
        (
            found
            for found in re.finditer(pattern, word)
            if not any(begin <= found.start() < end for begin, end in comments)
        ),
        key=re.Match.start,
        default=None,
    )
