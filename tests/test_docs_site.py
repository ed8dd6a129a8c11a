"""The pages: every link leads somewhere, and the site has a place for each of them. `make site`
builds it, strictly; this needs nothing but the files.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from scripts.docs_site import on_page_markdown

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "sample-data/*.md") for path in ROOT.glob(pattern)
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]+))?\)")
PICTURE = re.compile(r"!\[[^\]]*\]\((?!https?:)([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def site() -> dict[str, Any]:
    """Return the configuration of the site."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return found


def in_nav(part: Any) -> list[str]:
    """Return the pages of a part of the navigation."""
    if isinstance(part, str):
        return [part]
    inside = part.values() if isinstance(part, dict) else part
    return [page for one in inside for page in in_nav(one)]


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of the headings of a page, as GitHub and the site make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return frozenset(re.sub(r" ", "-", heading) for heading in plain)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    """A page that was moved leaves links behind, which only readers find."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    lost = []
    for path, anchor in LINK.findall(text):
        target = (page.parent / unquote(path)).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(f"{path}#{anchor}")
    lost += [path for path in PICTURE.findall(text) if not (page.parent / path).exists()]
    assert lost == []


def test_the_navigation_names_pages_that_there_are() -> None:
    """And none twice. What it leaves out, a strict build of the site tells."""
    named = in_nav(site()["nav"])
    assert len(set(named)) == len(named)
    assert [name for name in named if not (ROOT / "docs" / name).exists()] == []
    assert {f"tutorials/{path.name}" for path in (ROOT / "docs" / "tutorials").iterdir()} <= {
        *named
    }


def test_the_reference_names_what_there_is() -> None:
    """A port that was renamed."""
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            module, _, last = name.rpartition(".")
            if last[0].isupper():
                assert hasattr(importlib.import_module(module), last), name
            else:
                importlib.import_module(name)


def test_links_that_leave_the_pages_lead_to_the_repository() -> None:
    """They are right in a checkout, and the site has only docs/."""
    page = SimpleNamespace(file=SimpleNamespace(src_uri="tutorials/page.md"))
    config = SimpleNamespace(extra={"repository": "https://host/repo"})
    text = "[a](../loop.md) [b](../../loop/ports.py#x) [c](try-it.md) [d](https://e)"
    assert on_page_markdown(text, page, config) == text.replace(
        "../../loop/ports.py#x", "https://host/repo/blob/main/loop/ports.py#x"
    )


def test_a_page_that_speaks_of_the_existing_project_says_where_that_is_told() -> None:
    """Who comes to one page first does not know whose components these are."""
    theirs = re.compile(
        r"existing\s+(?:Go\b|ones?\b|optimizer|actuator|controller|collector|components?|emulator"
        r"|loop|implementation)"
    )
    texts = {page: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}
    speaking = {page.name: text for page, text in texts.items() if theirs.search(text)}
    assert len(speaking) > 5
    told = ("glossary.md", "where-this-comes-from.md")
    assert [
        name
        for name, text in sorted(speaking.items())
        if name not in told and "](where-this-comes-from.md)" not in text
    ] == []


def test_every_port_that_has_a_suite_is_in_the_reference() -> None:
    """Who writes an arrival process of their own looks for its port beside the others."""
    told = "\n".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    suites = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("loop", "twin")
        for path in (ROOT / room / "testing").glob("*.py")
        if re.search(r"^class \w+Contract", path.read_text(), re.MULTILINE)
    ]
    assert len(suites) >= 8
    assert [suite for suite in suites if f"::: {suite}" not in told] == []
