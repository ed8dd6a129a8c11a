"""Policies of one's own: from module:Class, a file, or an installed package to the class, and the
hash of its code.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from loop.errors import SpecError
from twin.own_code import has_file, own_code
from twin.registry import resolve

if TYPE_CHECKING:
    from loop.ports import Policy

GROUP = "inferno.policies"
HERE = Path(__file__).resolve().parents[1]
# Of our own, what decides: a change of these makes another policy of each.
DECIDING = ("policies", "optimizer", "signals")

Make = Callable[..., "Policy"]


def installed_policies() -> dict[str, EntryPoint]:
    """Return the policies that packages of this environment bring, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def is_elsewhere(name: str) -> bool:
    """Tell whether *name* says where a policy is: a file, or module:Class."""
    return ":" in name or name.endswith(".py")


def load_policy(name: str) -> Make:
    """Return what makes the policy at *name*: FILE.py, FILE.py:Class or module:Class. Raise
    SpecError, one line, if there is none.
    """
    place, _, wanted = name.partition(":")
    made: object
    if place.endswith(".py"):
        made = _of_file(Path(place), wanted)
    else:
        made = resolve(name, kind="policy", known={})
    if not callable(made):
        found = type(made).__name__
        raise SpecError(f"policy: {name}: expected a class, found {found}")
    return cast("Make", made)


def _of_file(path: Path, wanted: str) -> object:
    try:
        module = _imported(path.resolve(), path.read_bytes())
    except OSError as error:
        raise SpecError(
            f"policy: {path}: expected a readable file, found {error.strerror}"
        ) from None
    except (Exception, SystemExit) as error:
        # Whatever the code of somebody else raises is said as one line, as bad input is.
        raise SpecError(f"policy: {path}: {type(error).__name__}: {error}") from None
    found = {one.__name__: one for one in _policies_of(module)}
    if wanted:
        if not hasattr(module, wanted):
            raise SpecError(f"policy: {path}: expected a class {wanted}, found none")
        return getattr(module, wanted)
    if len(found) != 1:
        names = ", ".join(found) or "none"
        raise SpecError(
            f"policy: {path}: expected one class with decide and start, found {names}: name one as "
            f"{path}:Class"
        )
    return next(iter(found.values()))


def _policies_of(module: ModuleType) -> Iterable[type]:
    for one in vars(module).values():
        own = inspect.isclass(one) and one.__module__ == module.__name__
        if own and all(callable(getattr(one, what, None)) for what in ("decide", "start")):
            yield one


def _imported(path: Path, code: bytes) -> ModuleType:
    # By its content: a file that was changed is another module.
    name = f"inferno_policy_{hashlib.sha256(bytes(path) + code).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # Data classes look their module up while they are made.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def code_digest(policy: Policy, *names: str) -> str:
    """Return a hash of the code by which *policy* decides: of the file of its class and of those of
    its own that this imports, of a policy of ours all that decides, of the policy that it stands
    before, and of where *names*, by which it was asked for, lead: what makes it there may be a
    function that sets options of hpa.
    """
    module = sys.modules.get(type(policy).__module__)
    digest = (
        _digest_of_module(module) if has_file(module) else _text_digest(_source_of(type(policy)))
    )
    behind = getattr(policy, "policy", None)
    others = [] if behind is None else [code_digest(behind)]
    makers = [one for one in map(_module_named, names) if one is not module]
    others += [_digest_of_module(one) for one in makers if has_file(one)]
    return _text_digest("".join([digest, *others])) if others else digest


def _module_named(name: str) -> ModuleType:
    place = name.partition(":")[0]
    if place.endswith(".py"):
        path = Path(place)
        return _imported(path.resolve(), path.read_bytes())
    points = {} if is_elsewhere(name) else installed_policies()
    return sys.modules[points[name].module if name in points else place]


def _digest_of_module(module: ModuleType) -> str:
    if Path(str(module.__file__)).resolve().is_relative_to(HERE):
        return _own_digest()
    code = own_code(module)
    deciding = tuple(f"loop.{part}" for part in DECIDING)
    # It may be made of one of ours.
    made_of_ours = any(name.startswith(deciding) for name in code.others)
    return _text_digest(code.digest + _own_digest()) if made_of_ours else code.digest


def _source_of(kind: type) -> str:
    """Return the text of a class that was typed in, or what it was compiled to."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        methods = [value for value in vars(kind).values() if inspect.isfunction(value)]
        return repr([(one.__name__, one.__code__.co_code.hex()) for one in methods])


@lru_cache(maxsize=1)
def _own_digest() -> str:
    files = sorted(file for part in DECIDING for file in (HERE / part).rglob("*.py"))
    return _text_digest("".join(file.read_text(encoding="utf-8") for file in files))


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def identity(policy: Policy) -> str:
    """Return the name by which the class of an object can be found again."""
    kind: Any = type(policy)
    return f"{kind.__module__}:{kind.__qualname__}"
