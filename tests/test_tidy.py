"""The rules of style that a program can check: words, widths, names of files, forms of code.

What breaks a rule still is in tidy_allowed.txt, and an entry that is not needed any more fails.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("inferno", "twin", "loop", "emulator", "experiments")
CODE = (*PRODUCT, "tests", "benchmarks", "docs", "scripts")
TEXTS = (
    *("*.md", "docs/**/*.md", "sample-data/**/*.md", "notebooks/*.ipynb"),
    *("yamls/**/*.yaml", "sample-data/**/*.yaml", "tests/snapshots/*.txt"),
    *("inferno/web/static/*.html", "inferno/web/static/*.css", "inferno/web/static/[!p]*.js"),
    *("scripts/*.sh", "Makefile", "mkdocs.yml", ".github/**/*.yml"),
)
LOOKED_AT = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ExceptHandler,
    ast.Call,
    ast.Import,
    ast.ImportFrom,
)
WIDTH = 100
LINES_MAX = 70

# What was said once, and what is said now; docs/glossary.md explains the new words.
WORDS = {
    "wish": "desired, or what is wanted",
    "obey": "apply, carry out or reconcile",
    "band": "hysteresis",
    "stranger": "unowned pod",
    "patience": "timeout",
    "hopeless": "infeasible",
    "starved": "short of capacity",
    "overfull": "over capacity",
    "belief": "estimate",
    "believe": "estimate",
    "setpoint": "offered load",
    "set-point": "offered load",
    "set point": "offered load",
    "law": "latency model",
    "card": "GPU",
    "kv memory": "KV cache",
}
FORMS = re.compile(
    r"\b(?:("
    r"wish(?:es|ed|ing)?|obey(?:s|ed|ing)?|bands?|strangers?|patience|hopeless|starved|overfull|"
    r"beliefs?|believe[sd]?|set[- _]?points?|laws?|cards?|kv[ _]memory"
    r"))\b",
    re.IGNORECASE,
)
# A comment for a checker may reach beyond the width: it cannot be broken.
PRAGMA = re.compile(r" *# (?:noqa|type: ignore|pragma).*$")
# These are somebody else's words, or fields of files and records, which keep their names.
PHRASES = re.compile(
    r"Little['’]?s[ _]law|law of large numbers|power law|believed(?:Rpm|InTok|OutTok|Source)"
    r"|[\"`]band[\"`]|\bband=|\bband is the old name"
    r"|[\"`]cards[\"`]|\bcards: (?:10|of old)",
    re.IGNORECASE,
)

# A rule or word and a file a line. It may only become shorter.
ALLOWED = {
    tuple(line.rsplit(" ", 1))
    for line in (ROOT / "tests" / "tidy_allowed.txt").read_text(encoding="utf-8").splitlines()
}


@cache
def code_files() -> tuple[Path, ...]:
    """Return all files of Python code."""
    return tuple(
        path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py")) if path.is_file()
    )


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Return the parts of the syntax of a file that the rules look at: one walk serves them all."""
    return tuple(node for node in ast.walk(tree_of(path)) if isinstance(node, LOOKED_AT))


def name_of(path: Path) -> str:
    """Return the name of a file within the repository."""
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield all functions of a file."""
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def hold(rule: str, found: dict[str, list[str]], *, say: str = "") -> None:
    """Hold what was *found*, by file, to the rule: neither more than is allowed, nor allowed in
    vain.
    """
    allowed = {file for one, file in ALLOWED if one == rule}
    broken = [line for file, lines in found.items() if file not in allowed for line in lines]
    assert not broken, "\n".join([f"{len(broken)} times: {rule}{say}", *broken])
    unused = sorted(allowed - {file for file, lines in found.items() if lines})
    assert not unused, f"allowed in vain: {rule}: {unused}"


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
def test_the_words_are_those_of_the_field(word: str) -> None:
    """A private word has to be learnt by every reader, and found out first."""
    files = [*code_files(), *(path for pattern in TEXTS for path in ROOT.glob(pattern))]
    me = Path(__file__)
    found = {name_of(path): _uses(path, word) for path in files if path != me}
    hold(word, found, say=f": say {WORDS[word]}")


def _uses(path: Path, word: str) -> list[str]:
    return [line for form, line in _old_words(path) if form.startswith(word)]


@cache
def _old_words(path: Path) -> list[tuple[str, str]]:
    """Return every old word of a file, with its place."""
    text = _split(PHRASES.sub("", _text_of(path)))
    return [
        (
            found[0].lower().replace("_", " "),
            f"{name_of(path)}:{text.count(chr(10), 0, found.start()) + 1}: {found[0]}",
        )
        for found in FORMS.finditer(text)
    ]


@cache
def _text_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    # What came out of a cell is no text of ours, and pictures are letters by chance.
    return "\n".join(line for cell in json.loads(text)["cells"] for line in cell["source"])


def _split(text: str) -> str:
    """Return *text* with its identifiers cut into words: twoWords, two_words -> two Words."""
    return re.sub(r"([a-z])([A-Z])", r"\1 \2", text.replace("_", " "))


def test_lines_of_code_are_at_most_100_wide() -> None:
    """Two files side by side."""
    found = {
        name_of(path): [
            f"{name_of(path)}:{number}: {len(line)} columns"
            for number, line in enumerate(_text_of(path).splitlines(), start=1)
            if len(PRAGMA.sub("", line)) > WIDTH
        ]
        for path in code_files()
    }
    hold(f"at most {WIDTH} columns", found)


def test_files_are_named_by_their_subject() -> None:
    """What goes into utils.py belongs to nobody."""
    vague = {"utils.py", "util.py", "common.py", "helpers.py", "helper.py", "misc.py"}
    hold("name the thing", {name_of(p): [name_of(p)] for p in code_files() if p.name in vague})


@pytest.mark.slow
def test_a_module_says_first_what_lives_in_it() -> None:
    """One sentence, so that nobody reads a file to learn that it is the wrong one."""
    found = {}
    for path in code_files():
        said = ast.get_docstring(tree_of(path)) or ""
        if not re.match(r"[^.]*[.:]", said, flags=re.DOTALL):
            found[name_of(path)] = [f"{name_of(path)}: {said[:60]!r}"]
    hold("a module starts with a sentence", found)


@pytest.mark.slow
def test_a_function_fits_on_a_screen() -> None:
    """70 lines hard, under 20 usual."""
    found: dict[str, list[str]] = {}
    for path in code_files():
        for one in functions(path):
            lines = (one.end_lineno or one.lineno) - one.lineno + 1
            if lines > LINES_MAX:
                found.setdefault(name_of(path), []).append(
                    f"{name_of(path)}:{one.lineno}: {one.name} has {lines} lines"
                )
    hold(f"at most {LINES_MAX} lines", found)


@pytest.mark.slow
def test_a_test_says_why_it_matters() -> None:
    """A claim that fails is either mended or given up; the docstring decides which."""
    found: dict[str, list[str]] = {}
    for path in code_files():
        if path.name.startswith("test_") or "testing" in path.parts:
            found[name_of(path)] = [
                f"{name_of(path)}:{one.lineno}: {one.name}"
                for one in functions(path)
                if one.name.startswith("test_") and not ast.get_docstring(one)
            ]
    hold("a test has a docstring", found)


@pytest.mark.slow
def test_nothing_is_swallowed() -> None:
    """An error that is caught and dropped is found by its consequences, weeks later."""
    found: dict[str, list[str]] = {}
    for path in code_files():
        found[name_of(path)] = [
            f"{name_of(path)}:{node.lineno}"
            for node in nodes_of(path)
            if isinstance(node, ast.ExceptHandler)
            and (
                node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException")
            )
            and all(isinstance(one, ast.Pass) for one in node.body)
        ]
    hold("no except Exception: pass", found)


def test_an_ignored_rule_has_its_reason_beside_it() -> None:
    """Or nobody dares to remove it."""
    bare = re.compile(r"# noqa(?:: *[A-Z]+\d+(?:, *[A-Z]+\d+)*)? *$")
    found = {
        name_of(path): [
            f"{name_of(path)}:{number}"
            for number, line in enumerate(_text_of(path).splitlines(), start=1)
            if bare.search(line)
        ]
        for path in code_files()
    }
    hold("noqa says why", found)


@pytest.mark.slow
def test_chance_comes_from_a_generator_that_was_handed_over() -> None:
    """A module global that draws makes a run that cannot be repeated."""
    found = {}
    for path in code_files():
        if path.relative_to(ROOT).parts[0] in PRODUCT and "testing" not in path.parts:
            found[name_of(path)] = [
                f"{name_of(path)}:{node.lineno}"
                for node in nodes_of(path)
                if "random" in _imported(node)
            ]
    hold("no module random", found)


@pytest.mark.slow
def test_no_modules_import_each_other() -> None:
    """Neither when they run nor for their types: who reads one of a circle has to read them all."""
    modules = {_module(path): path for path in code_files() if name_of(path).startswith(PRODUCT)}
    imports = {
        name: {
            found if found in modules else found.rpartition(".")[0]
            for node in nodes_of(path)
            for found in _imported_names(node)
        }
        & modules.keys()
        for name, path in modules.items()
    }
    while True:
        # What imports nothing of the rest, or is imported by nothing of it, is in no circle.
        wanted = {found for name in imports for found in imports[name]}
        free = {name for name, found in imports.items() if not found or name not in wanted}
        if not free:
            break
        imports = {name: found - free for name, found in imports.items() if name not in free}
    circle = [f"{name} imports {', '.join(sorted(found))}" for name, found in imports.items()]
    assert not circle, "\n".join(["modules that import each other:", *circle])


def _module(path: Path) -> str:
    return name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported_names(node: ast.AST) -> list[str]:
    """Return what *node* imports: of a module its name, of a name in a module both."""
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return _imported(node)


@pytest.mark.slow
def test_a_package_that_offers_names_lists_them() -> None:
    """What __all__ does not name is free to change."""
    found = {}
    for path in code_files():
        if path.name == "__init__.py" and path.relative_to(ROOT).parts[0] in PRODUCT:
            body = tree_of(path).body
            named = {getattr(t, "id", "") for node in body for t in getattr(node, "targets", ())}
            ours = [one for node in body for one in _imported(node) if one.split(".")[0] in PRODUCT]
            if ours and "__all__" not in named:
                found[name_of(path)] = [name_of(path)]
    hold("a package with names has __all__", found)


@pytest.mark.slow
def test_unit_tests_neither_sleep_nor_patch_our_own_code() -> None:
    """Fakes are small real implementations of a port. A poll waits a twentieth of a second at
    most.
    """
    found: dict[str, list[str]] = {}
    for path in code_files():
        folders = path.relative_to(ROOT).parts
        if folders[0] == "tests" and "live" not in folders:
            found[name_of(path)] = [
                f"{name_of(path)}:{node.lineno}"
                for node in nodes_of(path)
                if isinstance(node, ast.Call) and (_sleeps(node) or _patches(node))
            ]
    hold("unit tests do not sleep and patch nothing of ours", found)


def _sleeps(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "time.sleep" and ast.literal_eval(call.args[0]) > 0.05


def _patches(call: ast.Call) -> bool:
    if ast.unparse(call.func) != "monkeypatch.setattr" or len(call.args) == 1:
        return False
    return ast.unparse(call.args[0]).strip("'\"").split(".")[0] in PRODUCT


def test_nothing_is_left_to_do() -> None:
    """What is missing is an issue, not a comment."""
    left = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    found = {name_of(path): [name_of(path)] for path in code_files() if left.search(_text_of(path))}
    hold("nothing is left to do", found)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []
