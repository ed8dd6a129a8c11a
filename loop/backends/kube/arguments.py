"""The settings of a container: an argument of its command line and its GPUs; where they stand,
what they are, and how they are changed; pure.

An argument may be a word of its own, with its value behind it or behind a =, or stand inside a
command for a shell (`sh -c "vllm serve m --max-num-seqs 256"`); its value may be that of an
environment variable.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from twin.magnitudes import BATCH_MAX, whole

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
    "google.com/tpu",
    "aws.amazon.com/neuron",
    "huawei.com/Ascend910",
)
# Slices of a GPU (AMD's are named by their partitions), and shares of one that the device plugin
# gives a name of its own.
_PART = re.compile(r"nvidia\.com/(?:mig-.+|gpu\.shared)|amd\.com/[a-z]{3}_nps\d+")
# How vLLM and SGLang are told to use several GPUs for one model.
TENSOR_PARALLEL = ("--tensor-parallel-size", "-tp", "--tp-size", "--tp")
# Other ways, which multiply with it.
PARALLEL = (
    ("--pipeline-parallel-size", "-pp", "--pp-size", "--pp"),
    ("--data-parallel-size", "-dp", "--dp-size", "--dp"),
)
# What a shell (or Kubernetes: the first form) puts the value of a variable for.
_VARIABLE = re.compile(
    r"\$(?:\((?P<kubernetes>[A-Za-z_]\w*)\)|(?P<plain>[A-Za-z_]\w*)"
    r"|\{(?P<braces>[A-Za-z_]\w*)(?::?-(?P<default>[^}]*))?\})"
)
_OF_A_SCRIPT = re.compile(r"-[a-z]*c")  # a shell takes the next word for a command
_PASSED_ON = re.compile(r"\$(?:[@*1-9]|\{[@*1-9])")  # a shell command that reads what follows it
_NEXT_COMMAND = re.compile(r"[;|]|(?<![<>])&(?!>)|(?<!\\)\n")
_SHELL_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|\S)+""")
# What may stand before a program: its options that have a value behind them, and its own words.
_PLAIN = (
    *("exec", "nohup", "time", "command", "eval", "setsid", "tini", "dumb-init", "sudo", "--"),
    "trtllm-llmapi-launch",
    *("if", "then", "while", "do", "else", "{", "!", *SHELLS),
)
_NUMA = (
    *("-N", "-C", "-m", "-i", "-p", "-P", "--cpunodebind", "--physcpubind", "--membind"),
    *("--interleave", "--preferred"),
)
_BEFORE_PROGRAMS: Mapping[str, tuple[tuple[str, ...], int]] = {
    **dict.fromkeys(_PLAIN, ((), 0)),
    "env": (("-u", "--unset", "-C", "--chdir"), 0),
    "numactl": (_NUMA, 0),
    "timeout": (("-s", "-k", "--signal", "--kill-after"), 1),
    "taskset": ((), 1),
    "chrt": ((), 1),
    "nice": (("-n", "--adjustment"), 0),
    "ionice": (("-c", "-n", "--class", "--classdata"), 0),
    "stdbuf": (("-i", "-o", "-e", "--input", "--output", "--error"), 0),
    "python": (("-X", "-W"), 0),
}
# Programs that read the settings of an engine, and others of the same name that serve nobody.
_ENGINE = re.compile(
    r"(?:vllm|vllm\.entrypoints\.\S*(?:api_server|cli\.main)|api_server\.py"
    r"|(?:sglang\.)?launch_server(?:\.py)?|sglang serve|text-generation-(?:launcher|server)"
    r"|trtllm-serve|lmdeploy serve|dynamo\.(?:vllm|sglang|trtllm)|llm-d-inference-sim)(?!\S)"
)
_SERVES_NOBODY = re.compile(r"\S+ (?:bench|chat|complete|collect-env|run-batch)(?!\S)")
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=")
_SETTING = re.compile(r"-{1,2}[A-Za-z][\w-]*|[A-Za-z_]\w*")  # an argument, or a variable


def is_gpu(resource: str) -> bool:
    """Tell whether a *resource* is GPUs, or parts of them."""
    return resource in GPU_RESOURCES or _PART.fullmatch(resource) is not None


# By which engines are told their batch size: vLLM, SGLang, TensorRT-LLM.
PER_ENGINE = "--max-num-seqs"
BATCH_ARGUMENTS = (PER_ENGINE, "--max-running-requests", "--max-batch-size")
# How many engines of data parallelism vLLM begins in a pod, each of which has that batch.
ENGINES_OF_A_POD = ("--data-parallel-size-local", "-dpl", "--data-parallel-size", "-dp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a setting stands: in which list of which container, in which word, and its value.

    value is "" if it is there without a number of its own (a variable that others set, say).
    variable is the environment variable that holds it, "" if the word itself does; key is then
    "env". inside: it stands inside a longer text. told: the number that a script gives to the
    variable which stands there.
    """

    container: str
    key: str
    index: int
    value: str
    inside: bool = False
    variable: str = ""
    told: str = ""


def find(containers: Sequence[Json], argument: str, *, container: str = "") -> Place | None:
    """Return where *argument* (--name, or NAME of an environment variable) stands in the command
    lines of *containers*; of one that is given twice, the place that counts: the last of its
    container.

    *container*: look at this one only; without it those that ask for GPUs come first.
    """
    named = [one for one in containers if not container or one.get("name") == container]
    for one in sorted(named, key=lambda one: not gpu_limits([one])):
        if not argument.startswith("-"):
            if (place := _of_variable(one, argument, missing="")) is not None:
                return place
            continue
        places = [
            place
            for position in range(len(_words(one)))
            if (place := _place(one, position, argument)) is not None
        ]
        if places:
            return places[-1]
        if (place := _in_variable(one, argument)) is not None:
            return place
    return None


def _in_variable(container: Json, argument: str) -> Place | None:
    """Return where *argument* stands inside the value of an environment variable that the command
    line of *container* names ($EXTRA_ARGS).
    """
    line = "\n".join(_words(container))
    named = {name for found in _VARIABLE.finditer(line) for name in _names_of(found)}
    for index, one in reversed(list(enumerate(container.get("env") or ()))):
        found = _inside(argument, str(one.get("value") or ""))
        if one.get("name") in named and found and one.get("valueFrom") is None:
            value = found[-1]["value"].strip("\"'")
            return Place(
                container=str(container.get("name") or ""),
                key="env",
                index=index,
                value="" if whole(value) is None else value,
                inside=True,
                variable=str(one["name"]),
            )
    return None


def _names_of(variable: re.Match[str]) -> Sequence[str]:
    return [name for name in variable.group("kubernetes", "braces", "plain") if name]


def _words(container: Json) -> list[str]:
    """Return the words that *container* is started with, but for those that no program reads: what
    follows the command of a shell is read only if that command says so.
    """
    words = [str(word) for key in ("command", "args") for word in container.get(key) or ()]
    script = _script(words)
    if script is None or _PASSED_ON.search(words[script]):
        return words
    return words[: script + 1]


def _script(words: Sequence[str]) -> int | None:
    """Return which of *words* is a command for a shell; None if none is."""
    if len(words) > 1 and _OF_A_SCRIPT.fullmatch(words[0]):
        return 1  # the program of the image is a shell
    # Others may stand before the shell (tini, env), and further letters before the c (bash -exc).
    for shell, word in enumerate(words):
        if word.rsplit("/", 1)[-1] not in SHELLS:
            continue
        for position in range(shell + 1, len(words) - 1):
            if _OF_A_SCRIPT.fullmatch(words[position]):
                return position + 1
    return None


def _place(container: Json, position: int, argument: str) -> Place | None:
    """Return where *argument* stands in the word at *position* of *container*."""
    words = _words(container)
    word, inside, at = words[position], False, position
    name, equals, told = word.partition("=")
    if _same(name, argument) and not equals:
        value = words[position + 1] if position + 1 < len(words) else ""
        at = position + 1 if position + 1 < len(words) else position
    elif _same(name, argument):
        value = told
    else:
        if not _inside(argument, word):
            return None
        found = _of_engines(argument, word)
        value, inside = found[-1]["value"].strip("\"'") if found else "", True
    told = _assigned(value, word) if inside else ""
    of_variable = None if told else _reference(container, value, in_shell=inside)
    if of_variable is not None:
        return of_variable
    commands = len(container.get("command") or ())
    return Place(
        container=str(container.get("name") or ""),
        key="command" if at < commands else "args",
        index=at if at < commands else at - commands,
        value="" if whole(value) is None else value,
        inside=inside,
        told=told,
    )


def _assigned(value: str, script: str) -> str:
    """Return the number that a *script* has given to the variable that *value* stands for, "" if it
    gives it none.
    """
    found = _VARIABLE.fullmatch(value)
    if found is None:
        return ""
    (name,) = _names_of(found)
    pattern = rf"(?<![\w$]){name}=[\"']?(?P<number>\d+)[\"']?(?=[\s;&|]|$)"
    numbers = [one["number"] for one in re.finditer(pattern, script)]
    # Of several nobody knows which counts.
    return numbers[0] if len(numbers) == 1 and whole(numbers[0]) is not None else ""


def _reference(container: Json, value: str, *, in_shell: bool) -> Place | None:
    """Return the environment variable of *container* that *value* stands for; None if it stands
    for none that can be known: Kubernetes puts in what it knows by its own form alone.
    """
    found = _VARIABLE.fullmatch(value)
    if found is None or not (in_shell or found["kubernetes"]):
        return None
    (name,) = _names_of(found)
    return _of_variable(container, name, missing=found["default"])


def _of_variable(container: Json, name: str, *, missing: str | None) -> Place | None:
    """Return the environment variable *name* of *container*, whose value is *missing* if it has
    none; None if nothing tells.
    """
    place = Place(
        container=str(container.get("name") or ""), key="env", index=0, value="", variable=name
    )
    for index, one in reversed(list(enumerate(container.get("env") or ()))):
        if one.get("name") != name:
            continue
        if one.get("valueFrom") is not None:
            return None
        value = str(one.get("value") or "")
        return replace(place, index=index, value="" if whole(value) is None else value)
    if not missing or container.get("envFrom") or whole(missing) is None:
        return None
    return replace(place, index=len(container.get("env") or ()), value=missing)


def value_of(containers: Sequence[Json], argument: str, *, container: str = "") -> int | None:
    """Return the number that *argument* has, None if it has none."""
    place = find(containers, argument, container=container)
    told = place.value or place.told if place is not None else ""
    return int(told) if told else None


def batch_of(containers: Sequence[Json]) -> tuple[str, int] | None:
    """Return by which argument the engine in *containers* is told its batch size, and how large it
    is.
    """
    return _batch_of(_told(containers))


def _told(containers: Sequence[Json]) -> str:
    return json.dumps([{key: one[key] for key in _TELLING if key in one} for one in containers])


# What of a container tells with which arguments it is started, and whether it is the one that
# serves.
_TELLING = ("name", "command", "args", "env", "envFrom", "resources")


# Command lines are long, change rarely, and are the same in all pods of a server.
@lru_cache(maxsize=8192)
def _batch_of(told: str) -> tuple[str, int] | None:
    containers = json.loads(told)
    if (found := _first_of(containers, BATCH_ARGUMENTS)) is None:
        return None
    argument, batch = found
    batch *= _engines_of(told, argument)
    # Beyond all magnitudes it limits nothing.
    return (argument, batch) if batch <= BATCH_MAX else None


def engines_of(containers: Sequence[Json], argument: str, *, container: str = "") -> int:
    """Return how many engines of a pod have the value of *argument* each: 1, but for the batch of
    several engines of data parallelism. *container* as in `find`.
    """
    named = [one for one in containers if not container or one.get("name") == container]
    return _engines_of(_told(named), argument)


@lru_cache(maxsize=8192)
def _engines_of(told: str, argument: str) -> int:
    containers = json.loads(told)
    if not _same(argument, PER_ENGINE):
        place = find(containers, PER_ENGINE)
        if place is None or place.variable != argument:
            return 1
    engines = _first_of(containers, ENGINES_OF_A_POD)
    return engines[1] if engines else 1


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
    if not _SETTING.fullmatch(argument):
        raise ValueError(
            f"expected --argument or the name of an environment variable, found {argument!r:.60}"
        )
    named = [one for one in containers if not container or one.get("name") == container]
    if not named:
        raise ValueError(f"expected the name of a container, found {container!r:.60}")
    place = find(named, argument)
    if place is None:
        return _added(_likeliest(named), argument, value)
    owner = next(one for one in named if str(one.get("name") or "") == place.container)
    if place.variable:
        if place.value == str(value):
            return {}
        text = str(value)
        if place.inside:
            text = _with_number(owner["env"][place.index]["value"], argument, value)
        return {"name": owner["name"], "env": [{"name": place.variable, "value": text}]}
    words = [str(word) for word in owner.get(place.key) or ()]
    word = words[place.index]
    found = _of_engines(argument, word) if place.inside else []
    if place.inside and not found:
        raise ValueError(f"nothing tells which engine reads {argument} in {word!r:.60}")
    if not place.value:
        raise ValueError(f"{argument} has no number of its own in {word!r:.60}")
    if int(place.value) == value and not place.inside:
        return {}
    if place.inside:
        for one in reversed(found):
            start, end = one.span("value")
            if whole(one["value"].strip("\"'")) is not None:
                word = word[:start] + re.sub(r"\d+", str(value), one["value"]) + word[end:]
        if word == words[place.index]:
            return {}
        words[place.index] = word
    elif "=" not in word:
        words[place.index] = str(value)
    else:
        words[place.index] = f"{word.partition('=')[0]}={value}"
    return {"name": owner["name"], place.key: words}


def _with_number(text: str, argument: str, value: int) -> str:
    """Return the *text* of a variable in which *argument* has *value*. Raise ValueError if it has
    no number there.
    """
    found = _inside(argument, text)[-1]
    if whole(found["value"].strip("\"'")) is None:
        raise ValueError(f"{argument} has no number of its own in {text!r:.60}")
    start, end = found.span("value")
    return text[:start] + re.sub(r"\d+", str(value), found["value"]) + text[end:]


def _of_engines(argument: str, script: str) -> list[re.Match[str]]:
    """Return where *argument* stands in the commands of a *script* that begin engines, the last
    place of each: what else a script does (warm up, measure) has numbers of its own. Of programs
    that nobody knows a single one is the engine.
    """
    commands: dict[int, re.Match[str]] = {}
    for found in _inside(argument, script):
        ends = (end.end() for end in _NEXT_COMMAND.finditer(script, 0, found.start()))
        commands[max(ends, default=0)] = found
    engines, unknown = list[re.Match[str]](), list[re.Match[str]]()
    for begin, found in commands.items():
        program = _program(script[begin : found.start()])
        if not _SERVES_NOBODY.match(program):
            (engines if _ENGINE.match(program) else unknown).append(found)
    return engines or (unknown if len(commands) == 1 else [])


def _program(command: str) -> str:
    """Return the program that a *command* of a shell runs, without what stands before it, and what
    follows it.
    """
    text = command.replace("\\\n", " ").replace("(", " ")
    words = [word.strip("\"'") for word in _SHELL_WORD.findall(text)]
    while words:
        if _ASSIGNED.match(words[0]):
            del words[0]
            continue
        name = re.sub(r"^(python)[\d.]*$", r"\1", words[0].rsplit("/", 1)[-1])
        if name not in _BEFORE_PROGRAMS:
            return " ".join([name, *words[1:]])
        valued, own = _BEFORE_PROGRAMS[name]
        del words[0]
        while words and (words[0].startswith("-") or own):
            own -= not words[0].startswith("-")
            del words[: 2 if words[0] in valued else 1]
    return ""


def _added(container: Json, argument: str, value: int) -> Json:
    """Return *container* with *argument* where its engine reads it; raise ValueError if nothing
    tells that it would.
    """
    name = container.get("name")
    if not argument.startswith("-"):
        if any(one.get("name") == argument for one in container.get("env") or ()):
            raise ValueError(f"the variable {argument} of {name} is set from elsewhere")
        return {"name": name, "env": [{"name": argument, "value": str(value)}]}
    command = [str(word) for word in container.get("command") or ()]
    arguments = [str(word) for word in container.get("args") or ()]
    words = [*command, *arguments]
    script = _script(words)
    if script is not None and not (
        _PASSED_ON.search(words[script]) and script + 1 < len(words)  # the first of them is $0
    ):
        raise ValueError(f"the shell command of {name} has no {argument}")
    if script is None and command and not _ENGINE.match(_program(shlex.join(words))):
        found = _own_script(command) or " ".join(command)
        raise ValueError(f"nothing tells whether {found:.60} of {name} reads {argument}")
    return {"name": name, "args": [*arguments, f"{argument}={value}"]}


def _own_script(command: Sequence[str]) -> str:
    """Return the script that *command* runs, "" if it runs none."""
    return next((word for word in command if re.search(r"\.(?:sh|bash)$", word)), "")


def with_changes(container: Json, changes: Json) -> dict[str, Any]:
    """Return *container* with *changes*, or changes with others: environment variables are told
    apart by their names, as a strategic merge patch does.
    """
    result = {**container, **changes}
    if "env" in changes:
        replaced = {one["name"] for one in changes["env"]}
        kept = [one for one in container.get("env") or () if one.get("name") not in replaced]
        result["env"] = [*kept, *changes["env"]]
    return result


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


def side_by_side(pod_spec: Json) -> list[Json]:
    """Return the containers that run all the time in a pod of *pod_spec*: its containers, and init
    containers that go on beside them (sidecars).
    """
    sidecars = [
        one for one in pod_spec.get("initContainers") or () if one.get("restartPolicy") == "Always"
    ]
    return [*(pod_spec.get("containers") or ()), *sidecars]


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
    tensor = _first_of([owner], TENSOR_PARALLEL)
    others = math.prod(found[1] for names in PARALLEL if (found := _first_of([owner], names)))
    used = others * (tensor[1] if tensor else 1)
    if used == limit.count and number % others == 0 and tensor is not None:
        words = changed([owner], tensor[0], number // others, container=limit.container)
        return with_changes(patch, words)
    if used > 1 and (used == limit.count or used > number):
        raise ValueError(f"{limit.container} is told to use {used} GPUs, which {number} do not fit")
    return patch


def _first_of(containers: Sequence[Json], arguments: Sequence[str]) -> tuple[str, int] | None:
    """Return the first of *arguments* that has a number, and that."""
    told = ((name, value_of(containers, name)) for name in arguments)
    return next(((name, value) for name, value in told if value), None)


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


def _inside(argument: str, word: str) -> list[re.Match[str]]:
    """Return where *argument* and its value stand inside *word*, of which the last one counts; what
    a shell takes for a comment does not.
    """
    name = re.sub("[-_]", "[-_]", re.escape(argument).replace("\\-", "-"))
    gap = r"(?:=|(?:\s|\\\n)+)"
    # The name may be quoted, with its value behind, or both together.
    pattern = rf"(?<![^\s\"'(=]){name}[\"']?{gap}(?P<value>[\"']?[^\s\"';&|\\]+[\"']?)"
    comments = [found.span() for found in re.finditer(r"(?<!\S)#[^\n]*", word)]
    return [
        found
        for found in re.finditer(pattern, word)
        if not any(begin <= found.start() < end for begin, end in comments)
    ]
