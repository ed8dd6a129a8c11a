"""From a JSON value to a message of models.py: keys in any case, older spellings, and errors of one
line that name the place. What a message means is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError

from loop.schema.models import LEVELS, Level, Message, Rule
from twin.datafile import error_line, label, unknown_line
from twin.spec import SpecError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic.fields import FieldInfo

Json = dict[str, Any]
Warn = Callable[[str], None]
Place = tuple[str | int, ...]
Read = TypeVar("Read", bound=Message)
Value = TypeVar("Value")

NO_RULE = Rule()
KINDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
BEYOND = frozenset({"less_than", "less_than_equal"})
# The value is of its kind, and no value that we take: existing services take it.
RANGES = BEYOND | {"greater_than", "greater_than_equal", "finite_number", "string_too_short"}


class KindError(SpecError):
    """What came is no JSON, or of another kind than the message has: no reader of it would take
    it.
    """


@dataclass(frozen=True, slots=True)
class Known:
    """A field of a message: its name and key, what is below it (and whether in a list or under
    names), what belongs there and what it must satisfy.
    """

    name: str
    key: str
    message: type[Message] | None
    many: Literal["", "list", "names"]
    kind: str
    at_least: float | None
    at_most: float | None
    rule: Rule

    def needed(self, level: Level) -> bool:
        """Tell whether it must be said on *level*."""
        needed = self.rule.needed
        return needed is not None and LEVELS.index(needed) <= LEVELS.index(level)

    def expected(self, level: Level, *, largest: bool = False) -> str:
        """Return what belongs there; largest: with the largest figure that a message may hold."""
        if self.rule.expected:
            return self.rule.expected
        if self.rule.choices:
            return "one of " + ", ".join(self.rule.choices)
        in_files = level == "files"
        bounds = (
            (">=", self.rule.at_least if in_files and self.rule.at_least else self.at_least),
            ("<=", self.rule.at_most if in_files and self.rule.at_most else None),
            ("<=", self.at_most if largest else None),
        )
        told = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
        return f"{self.kind} {told}".rstrip()


def read(
    model: type[Read],
    obj: object,
    *,
    source: str,
    level: Level = "go",
    warn: Warn | None = None,
) -> Read:
    """Return *obj*, a JSON value, as a *model*; tell *warn* a line for every key that is not used.

    Raise SpecError, one line that begins with *source*, at the first thing that is wrong.
    """
    unknown: list[tuple[Place, str]] = []
    given = of_today(model, obj, unknown, ())
    try:
        found = model.model_validate(given)
    except ValidationError as problem:
        raise _refusal(problem, model, given, source=source, level=level) from None
    if level != "go":
        require(found, level, source=source)
    if warn:
        for line in _unknown_lines(model, given, unknown, source=source):
            warn(line)
    return found


def read_value(adapter: TypeAdapter[Value], obj: object, *, source: str) -> Value:
    """Return *obj* as what *adapter* reads, which is ours and no message. Raise SpecError, one
    line.
    """
    try:
        return adapter.validate_python(obj)
    except ValidationError as problem:
        raise _refusal(problem, None, obj, source=source, level="go") from None


def of_today(
    model: type[Message], obj: object, unknown: list[tuple[Place, str]], at: Place
) -> object:
    """Return *obj* with the keys of *model* in their own spelling of today, without those whose
    value is null and those that nobody knows; append the latter, with their place, to *unknown*.
    """
    if not isinstance(obj, dict):
        return obj
    shape = _shape(model)
    if obj.keys() <= shape.plain and None not in obj.values():
        # As nearly every object is: its keys are those of today, so that only what is below it is
        # looked at.
        return {**obj, **_below(shape, obj, unknown, at)} if shape.nested else obj
    found: Json = {}
    for key, value in obj.items():
        field = shape.spellings.get(key) or shape.spellings.get(str(key).lower())
        if field is None:
            unknown.append((at, str(key)))
        elif value is not None:
            found[field] = value
    for key in model.unused:
        found.pop(key, None)
    return model.of_today({**found, **_below(shape, found, unknown, at)})


def _below(shape: Shape, obj: Json, unknown: list[tuple[Place, str]], at: Place) -> Json:
    """Return what stands in the fields of *obj* that hold messages, as of_today does."""
    found: Json = {}
    for field in shape.nested:
        value, model = obj.get(field.key), field.message
        assert model is not None, field
        if value is None:
            continue
        if field.many == "list" and isinstance(value, list):
            value = [
                of_today(model, each, unknown, (*at, field.key, index))
                for index, each in enumerate(value)
            ]
        elif field.many == "names" and isinstance(value, dict):
            value = {
                name: of_today(model, each, unknown, (*at, field.key, name))
                for name, each in value.items()
            }
        elif not field.many:
            value = of_today(model, value, unknown, (*at, field.key))
        found[field.key] = value
    return found


def require(message: Message, level: Level, *, source: str) -> None:
    """Raise SpecError at the first thing in *message* that does not hold on *level*."""
    broken = _broken(message, level)
    if broken:
        at, expected, found = broken
        raise fail(source, message, at, expected=expected, found=found)


def fail(source: str, root: Message, at: Place, *, expected: str, found: object) -> SpecError:
    """Return the error to raise for what stands at the place *at* (keys and indices) in *root*."""
    return SpecError(_line(source, type(root), root, at, expected=expected, found=found))


def _broken(message: Message, level: Level) -> tuple[Place, str, object] | None:
    """Return the first place where something does not hold, what belongs there and what is."""
    said = message.model_fields_set
    checks = _checks(type(message), level)
    if message.wrapper in said:
        checks = [field for field in checks if field.name == message.wrapper]
    for field in checks:
        if field.name not in said:
            if field.needed(level):
                return (field.key,), field.expected(level), None
            continue
        value = getattr(message, field.name)
        if not _within(value, field.rule, level):
            return (field.key,), field.expected(level), value
        if field.message is None or field.rule.echoed:
            continue
        rows: Iterable[tuple[Place, Any]] = (((field.key,), value),)
        if field.many:
            pairs = enumerate(value) if field.many == "list" else value.items()
            rows = (((field.key, index), row) for index, row in pairs)
        for at, row in rows:
            broken = _broken(row, level) if row is not None else None
            if broken:
                return (*at, *broken[0]), *broken[1:]
    return None


@cache
def _checks(model: type[Message], level: Level) -> Sequence[Known]:
    """Return the fields of *model* in which, or below which, something may not hold on *level*."""
    return [
        field
        for field in fields(model).values()
        if field.needed(level)
        or field.rule.choices
        or (level == "files" and (field.rule.at_least, field.rule.at_most) != (None, None))
        or (field.message and not field.rule.echoed and _checks(field.message, level))
    ]


def _within(value: Any, rule: Rule, level: Level) -> bool:
    if rule.choices and value:
        return value.lower() in {choice.lower() for choice in rule.choices}
    if level != "files":
        return True
    return (rule.at_least is None or value >= rule.at_least) and (
        rule.at_most is None or value <= rule.at_most
    )


@cache
def fields(model: type[Message]) -> Mapping[str, Known]:
    """Return the fields of *model* by their keys."""
    found = (_known(name, info) for name, info in model.model_fields.items())
    return {field.key: field for field in found}


@dataclass(frozen=True, slots=True)
class Shape:
    """What keys a message may have. plain: those of today, which mean what they say; nested: the
    fields that hold messages; spellings: the key that each spelling stands for.
    """

    plain: frozenset[str]
    nested: Sequence[Known]
    spellings: Mapping[str, str]


@cache
def _shape(model: type[Message]) -> Shape:
    known = fields(model)
    keys = (*known, *model.older, *model.unused)
    return Shape(
        plain=frozenset(known) - set(model.older),
        nested=[field for field in known.values() if field.message],
        spellings={key.lower(): key for key in keys} | {key: key for key in keys},
    )


def _known(name: str, info: FieldInfo) -> Known:
    kind: Any = info.annotation
    metadata = list(info.metadata)
    if get_origin(kind) in {Union, UnionType}:
        (kind,) = (each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is Annotated:
        kind, *inner = get_args(kind)
        metadata += [each for field in inner for each in getattr(field, "metadata", (field,))]
    origin = get_origin(kind)
    below = get_args(kind)[-1] if origin in {list, dict} else kind
    is_message = isinstance(below, type) and issubclass(below, Message)

    def bound(side: str) -> float | None:
        return next((getattr(each, side) for each in metadata if hasattr(each, side)), None)

    return Known(
        name=name,
        key=info.alias or name,
        message=below if is_message else None,
        many="list" if origin is list else "names" if origin is dict else "",
        kind="a list […]" if origin is list else KINDS.get(kind, "an object {…}"),
        at_least=bound("ge"),
        at_most=bound("le"),
        rule=next((each for each in metadata if isinstance(each, Rule)), NO_RULE),
    )


def _refusal(
    problem: ValidationError,
    model: type[Message] | None,
    given: object,
    *,
    source: str,
    level: Level,
) -> SpecError:
    """Return the first of the errors that pydantic found as ours."""
    error = problem.errors(include_url=False, include_context=False)[0]
    at, kind = error["loc"], error["type"]
    found = None if kind == "missing" else error["input"]
    expected = _expected(model, at, level, largest=kind in BEYOND)
    if not expected:
        # A value of ours, which no table describes.
        expected = "a value" if kind == "missing" else str(error["msg"])
        expected = " ".join(expected.removeprefix("Input should be ").split())
    raised = SpecError if kind in RANGES else KindError
    return raised(_line(source, model, given, at, expected=expected, found=found))


def _expected(model: type[Message] | None, at: Place, level: Level, *, largest: bool) -> str:
    """Return what belongs at the place *at*, "" where that is not known."""
    expected = "an object {…}" if model else ""
    for part in at:
        if isinstance(part, str) and model is not None:
            field = fields(model).get(part)
            if field is None:  # a name, under which objects stand
                expected = "an object {…}"
                continue
            model, expected = field.message, field.expected(level, largest=largest)
        elif isinstance(part, int):
            expected = "an object {…}" if model else "a text"
    return expected


def _line(
    source: str,
    model: type[Message] | None,
    root: object,
    at: Place,
    *,
    expected: str,
    found: object,
) -> str:
    entry, field = _place(model, root, at)
    return error_line(source, entry, field, expected=expected, found=found)


def _place(model: type[Message] | None, root: object, at: Place) -> tuple[str, str]:
    """Return the entry of a list that *at* is in, with its name, and the field in that entry."""
    entry, field, here = "", "", root
    for part in at:
        here = _step(here, part)
        if isinstance(part, int):
            outer = f"{entry}: " if entry else ""
            entry, field = f"{outer}{field}[{part}]{_label(model, here)}", ""
        else:
            field = f"{field}.{part}" if field else part
            known = fields(model).get(part) if model else None
            model = known.message if known else model
    return entry, field


def _step(value: object, part: str | int) -> object:
    """Return what stands under *part* in a JSON value or a message; None where there is nothing."""
    if isinstance(part, int):
        return value[part] if isinstance(value, list) else None
    if isinstance(value, Message):
        known = fields(type(value)).get(part)
        return getattr(value, known.name) if known else None
    return value.get(part) if isinstance(value, Mapping) else None


def _label(model: type[Message] | None, row: object) -> str:
    """Return the name of a row, as it stands behind its index."""
    return label(_step(row, key) for key in model.label) if model else ""


def _unknown_lines(
    model: type[Message], given: object, unknown: Iterable[tuple[Place, str]], *, source: str
) -> Iterator[str]:
    """Yield a line for every key that is not known; alike rows share a line."""
    entries: dict[str, list[str]] = {}
    known: dict[str, Iterable[str]] = {}
    for at, key in unknown:
        entry, field = _place(model, given, (*at, key))
        entries.setdefault(field, []).append(entry)
        # A key that is there already is not the one that was meant.
        there = {str(name).lower() for name in _object_at(given, at)}
        known.setdefault(field, [name for name in _keys_at(model, at) if name.lower() not in there])
    for field, found in entries.items():
        yield unknown_line(source, found, field, known=known[field])


def _object_at(given: object, at: Place) -> Iterable[str]:
    """Return the keys of the object at the place *at*; none if it is none."""
    here = given
    for part in at:
        if isinstance(part, int):
            here = here[part] if isinstance(here, list) and part < len(here) else None
        else:
            here = _step(here, part) if here is not None else None
    return here if isinstance(here, Mapping) else ()


def _keys_at(model: type[Message], at: Place) -> Iterable[str]:
    """Return the keys that the object at the place *at* may have."""
    here: type[Message] | None = model
    for part in at:
        field = fields(here).get(str(part)) if here else None
        here = field.message if field else here
    return fields(here) if here else ()
