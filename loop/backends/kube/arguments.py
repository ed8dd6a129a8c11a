"""The arguments of a container's command line: where they stand, what they are, and how they are
changed, with its GPUs too; pure.

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
from itertools import pairwise
from typing import Any

from loop.backends.kube.gpus import GpuLimit, gpu_limit, gpu_limits
from loop.backends.kube.scripts import (
    NEXT_COMMAND,
    VARIABLE,
    assigned,
    name_of,
    one_word,
    without_comments,
)
from twin.magnitudes import BATCH_MAX, whole

Json = Mapping[str, Any]

SHELLS = ("sh", "bash", "ash", "dash", "zsh")
# How vLLM and SGLang are told to use several GPUs for one model.
TENSOR_PARALLEL = ("--tensor-parallel-size", "-tp", "--tp-size", "--tp")
# Other ways, which multiply with it.
PARALLEL = (
    ("--pipeline-parallel-size", "-pp", "--pp-size", "--pp"),
    ("--data-parallel-size", "-dp", "--dp-size", "--dp"),
)
# A shell takes the next word for a command. The arguments of an image may be those of an engine,
# which has others that end so (-cc, -sc, -ac, with JSON behind).
_OF_A_SCRIPT = re.compile(r"-[a-z]*c")
_OF_A_SHELL = re.compile(r"-[eiluvx]*c")
_BEFORE_A_FILE = re.compile(r"[-+][a-zA-Z]*o|--rcfile|--init-file")
_PASSED_ON = re.compile(r"\$(?:[@*1-9]|\{[@*1-9])")  # a shell command that reads what follows it
# A variable by which a command is passed words, with the quotes around it.
_NAMED = re.compile(r"(?<![\\$])[\"']?\$\{?(?P<name>[A-Za-z_]\w*)(?:\[[@*]\])?\}?[\"']?")
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
# Images that begin one by themselves.
_ENGINE_IMAGE = re.compile(
    r"(?:.*/)?(?:vllm-(?:openai|cpu|rocm)[\w-]*|text-generation-inference|llm-d-inference-sim)"
    r"(?:[:@].*)?"
)
_SERVES_NOBODY = re.compile(r"\S+ (?:bench|chat|complete|collect-env|run-batch)(?!\S)")
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=")
_SETTING = re.compile(r"-{1,2}[A-Za-z][\w-]*|[A-Za-z_]\w*")  # an argument, or a variable


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
    variable which stands there. differs: engines of a script (in its branches, or beside each
    other) have different values, of which this is one.
    """

    container: str
    key: str
    index: int
    value: str
    inside: bool = False
    variable: str = ""
    told: str = ""
    differs: bool = False


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
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Where an argument stands in a script: at start, or in the variable of the environment that
    is named there (its index, -1 if none). span: of its value in the text that holds it.
    """

    start: int
    value: str
    span: tuple[int, int]
    variable: int = -1


def _in_variable(
    argument: str, container: Json, reference: re.Match[str], *, script: str
) -> list[_Found]:
    """Return where *argument* stands in the variable of *container* that is named in *script* by
    *reference*: nowhere or once, without a value if nobody can tell whether that is in force.
    """
    variable = _of_environment(container, name_of(reference))
    if variable is None:
        return []
    index, text = variable
    if not (inner := _inside(argument, text)):
        return []
    found, value, single = inner[-1], inner[-1]["value"].strip("\"'"), one_word(reference, script)
    begin = _begin(script, reference.start())
    given = None if reference["kubernetes"] else assigned(name_of(reference), script, begin)
    if given is not None or single is None or (single and found.span() != (0, len(text))):
        value = ""
    return [_Found(start=reference.start(), value=value, span=found.span("value"), variable=index)]


def _of_environment(container: Json, name: str) -> tuple[int, str] | None:
    """Return which variable of *container* has the *name*, and its text, if that is told."""
    env = enumerate(container.get("env") or ())
    named = [(index, one) for index, one in env if one.get("name") == name]
    if not named or named[-1][1].get("valueFrom") is not None:
        return None
    return named[-1][0], str(named[-1][1].get("value") or "")


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
    if len(words) > 1 and _OF_A_SHELL.fullmatch(words[0]) and not re.match(r'-|{\s*"', words[1]):
        return 1  # the program of the image is a shell
    # Others may stand before the shell (tini, env), and further letters before the c (bash -exc).
    for shell, word in enumerate(words):
        if word.rsplit("/", 1)[-1] not in SHELLS:
            continue
        for position in range(shell + 1, len(words) - 1):
            if _OF_A_SCRIPT.fullmatch(words[position]):
                return position + 1
            valued = _BEFORE_A_FILE.fullmatch(words[position - 1])
            if words[position][:1] not in ("-", "+") and not valued:
                break  # a file with a script
    return None


def _place(container: Json, position: int, argument: str) -> Place | None:
    """Return where *argument* stands in the word at *position* of *container*."""
    words = _words(container)
    word, at = words[position], position
    name, equals, value = word.partition("=")
    if not _same(name, argument):
        return _place_inside(container, position, argument)
    if not equals:
        value = words[position + 1] if position + 1 < len(words) else ""
        at = position + 1 if position + 1 < len(words) else position
    of_variable = _reference(container, value, in_shell=False)
    return of_variable or _at(container, at, value)


def _place_inside(container: Json, position: int, argument: str) -> Place | None:
    """Return where *argument* stands inside the word at *position* of *container*: in a script, or
    in a variable that Kubernetes puts in there.
    """
    words = _words(container)
    word = words[position]
    if position != _script(words):
        # Kubernetes puts in a single word, whatever its blanks, as if it were in quotes.
        quoted = f'"{word}"'
        reference = VARIABLE.fullmatch(quoted, 1, len(quoted) - 1)
        if reference and reference["kubernetes"]:
            in_word = _in_variable(argument, container, reference, script=quoted)
            return _in_environment(container, in_word[0]) if in_word else None
    text = without_comments(word)
    if not (found := _in_engines(container, position, argument)):
        # Of what stands in variables alone no engine reads anything.
        return _at(container, position, "", inside=True) if _inside(argument, text) else None
    if len({one.variable for one in found}) > 1:  # no single change is for all of them
        return _at(container, position, "", inside=True)
    if found[-1].variable >= 0:
        return _in_environment(container, found[-1])
    value, told = found[-1].value, ""
    reference = VARIABLE.fullmatch(value)
    if reference and not reference["kubernetes"]:
        begin = _begin(text, found[-1].start)
        if (given := assigned(name_of(reference), text, begin)) is not None:
            told = given if whole(given) is not None else ""
            return _at(container, position, "", inside=True, told=told)
    if (of_variable := _reference(container, value, in_shell=True)) is not None:
        return of_variable
    place = _at(container, position, value, inside=True)
    return replace(place, differs=len({one.value for one in found}) > 1)


def _at(container: Json, at: int, value: str, *, inside: bool = False, told: str = "") -> Place:
    commands = len(container.get("command") or ())
    return Place(
        container=str(container.get("name") or ""),
        key="command" if at < commands else "args",
        index=at if at < commands else at - commands,
        value="" if whole(value) is None else value,
        inside=inside,
        told=told,
    )


def _in_environment(container: Json, found: _Found) -> Place:
    return Place(
        container=str(container.get("name") or ""),
        key="env",
        index=found.variable,
        value="" if whole(found.value) is None else found.value,
        inside=True,
        variable=str(container["env"][found.variable]["name"]),
    )


def _reference(container: Json, value: str, *, in_shell: bool) -> Place | None:
    """Return the environment variable of *container* that *value* stands for; None if it stands
    for none that can be known: Kubernetes puts in what it knows by its own form alone.
    """
    found = VARIABLE.fullmatch(value)
    if found is None or not (in_shell or found["kubernetes"]):
        return None
    return _of_variable(container, name_of(found), missing=found["default"])


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
    told = "" if place is None or place.differs else place.value or place.told
    return int(told) if told else None


def batch_of(containers: Sequence[Json]) -> tuple[str, int] | None:
    """Return by which argument the engine in *containers* is told its batch size, and how large it
    is.
    """
    return _batch_of(_told(containers))


def unread_batch(containers: Sequence[Json]) -> str:
    """Return the argument that tells the engine in *containers* its batch size by a number that
    nobody can read here (a ConfigMap has it, or each branch of a script another one); "" if none
    does.
    """
    return _unread(_told(containers))


@lru_cache(maxsize=8192)
def _unread(told: str) -> str:
    containers = json.loads(told)
    standing = (name for name in BATCH_ARGUMENTS if find(containers, name) is not None)
    return next((name for name in standing if value_of(containers, name) is None), "")


def batch_size(containers: Sequence[Json]) -> int | None:
    """Return the batch size that the engine in *containers* is told, None if it is told none."""
    found = batch_of(containers)
    return None if found is None else found[1]


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
            text = _with_number(place, owner["env"][place.index]["value"], argument, value)
        return {"name": owner["name"], "env": [{"name": place.variable, "value": text}]}
    words = [str(word) for word in owner.get(place.key) or ()]
    word = words[place.index]
    found = list[_Found]()
    if place.inside:
        at = place.index + (0 if place.key == "command" else len(owner.get("command") or ()))
        found = _in_engines(owner, at, argument)
    if place.inside and not found:
        raise ValueError(f"nothing tells which engine reads {argument} in {word!r:.60}")
    if not place.value:
        raise ValueError(f"{argument} has no number of its own in {word!r:.60}")
    if int(place.value) == value and not place.inside:
        return {}
    if place.inside:
        for one in reversed(found):
            start, end = one.span
            if whole(one.value) is not None:
                word = word[:start] + re.sub(r"\d+", str(value), word[start:end]) + word[end:]
        if word == words[place.index]:
            return {}
        words[place.index] = word
    elif "=" not in word:
        words[place.index] = str(value)
    else:
        words[place.index] = f"{word.partition('=')[0]}={value}"
    return {"name": owner["name"], place.key: words}


def _with_number(place: Place, text: str, argument: str, value: int) -> str:
    """Return the *text* of the variable at *place* in which *argument* has *value*. Raise
    ValueError if it has no number there.
    """
    if not place.value:
        raise ValueError(f"{argument} has no number of its own in {text!r:.60}")
    found = _inside(argument, text)[-1]
    start, end = found.span("value")
    return text[:start] + re.sub(r"\d+", str(value), found["value"]) + text[end:]


def _in_engines(container: Json, position: int, argument: str) -> list[_Found]:
    """Return where the engines read *argument* in the word at *position* of *container*: there, or,
    if it is a command for a shell, in variables of the environment.
    """
    words = _words(container)
    script = without_comments(words[position])
    places = [
        _Found(start=one.start(), value=one["value"].strip("\"'"), span=one.span("value"))
        for one in _inside(argument, script)
    ]
    for reference in VARIABLE.finditer(script) if position == _script(words) else ():
        if script[max(0, reference.start() - 1) : reference.start()] not in ("\\", "$"):
            places += _in_variable(argument, container, reference, script=script)
    return _of_engines(sorted(places, key=lambda one: one.start), script)


def _begin(script: str, position: int) -> int:
    """Return where the command of *script* begins that stands at *position*."""
    return max((end.end() for end in NEXT_COMMAND.finditer(script, 0, position)), default=0)


def _of_engines(places: Sequence[_Found], script: str) -> list[_Found]:
    """Return those of *places* in the commands of a *script* that begin engines, the last of each:
    what else a script does (warm up, measure) has numbers of its own. Of programs that nobody
    knows a single one is the engine, if none is known to be.
    """
    commands = {_begin(script, one.start): one for one in places}
    engines, unknown, kept = list[_Found](), list[_Found](), list[_Found]()
    for begin, found in commands.items():
        program = _program(script[begin : found.start])
        if not _SERVES_NOBODY.match(program):
            (engines if _ENGINE.match(program) else unknown).append(found)
            kept += [found] * (not program or program.startswith("-"))
    known = [(begin, end) for begin, end in _commands(script) if _is_engine(script[begin:end])]
    if engines:
        # What a variable of the script keeps may stand behind what stands in the command.
        return [] if kept and _names_given(script, known) else engines
    if len(commands) != 1 or not unknown:
        return []
    return unknown if not known or _is_passed_on(unknown[0], script, known) else []


def _commands(script: str) -> list[tuple[int, int]]:
    """Return where the commands of *script* begin and end."""
    begins = [0, *(end.end() for end in NEXT_COMMAND.finditer(script))]
    return list(pairwise([*begins, len(script)]))


def _is_engine(command: str) -> bool:
    program = _program(command)
    return _ENGINE.match(program) is not None and _SERVES_NOBODY.match(program) is None


def begins_engine(container: Json) -> bool:
    """Tell whether the command line of *container* begins an engine that is known."""
    words = _words(container)
    script = _script(words)
    if script is None:
        image = "" if container.get("command") else str(container.get("image") or "")
        return _ENGINE_IMAGE.fullmatch(image) is not None or _is_engine(shlex.join(words))
    text = without_comments(words[script])
    return any(_is_engine(text[begin:end]) for begin, end in _commands(text))


def _names_given(script: str, engines: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
    """Return how *engines* (where their commands begin and end) name variables that *script* gives
    a value, in their quotes if they have any, and that text, "" if nobody can tell it.
    """
    return [
        (found[0], text)
        for begin, end in engines
        for found in _NAMED.finditer(script, begin, end)
        if (text := assigned(found["name"], script, begin)) is not None
    ]


def _is_passed_on(found: _Found, script: str, engines: Sequence[tuple[int, int]]) -> bool:
    """Tell whether *found* is in the value that *script* gives a variable, under no condition, with
    all words of which one of *engines* is started.
    """
    for named, text in _names_given(script, engines):
        is_array, at = text.startswith("("), script.find(text) if text else -1
        whole_array = named.strip('"').endswith(("[@]}", "[*]}"))
        # A text in quotes is a single word, as are all parts of an array together.
        fits = whole_array and "*" not in named if is_array else named[0] == "$" and not whole_array
        if fits and 0 <= at <= found.start < at + len(text):
            return True
    return False


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
    program = _program(shlex.join(words)) if command else f"engine {' '.join(arguments)}"
    if script is None and (
        _SERVES_NOBODY.match(program) or (command and not _ENGINE.match(program))
    ):
        found = _own_script(command) or " ".join(command or arguments)
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


def _same(name: str, argument: str) -> bool:
    """Tell whether *name* is *argument*: engines take - and _ for each other."""
    return name.startswith("-") and name.replace("_", "-") == argument.replace("_", "-")


def _inside(argument: str, word: str) -> list[re.Match[str]]:
    """Return where *argument* and its value stand inside *word*, of which the last one counts."""
    name = re.sub("[-_]", "[-_]", re.escape(argument).replace("\\-", "-"))
    gap = r"(?:=|(?:\s|\\\n)+)"
    # The name may be quoted, with its value behind, or both together.
    value = r"[\"']?(?:\d+(?=\))|[^\s\"';&|\\]+)[\"']?"
    return list(re.finditer(rf"(?<![^\s\"'(=]){name}[\"']?{gap}(?P<value>{value})", word))
