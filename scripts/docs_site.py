"""What the site of the documentation needs beyond mkdocs.yml: links that leave docs/."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

# A relative link to a file above works in a checkout; on the site it leads to the repository.
OUTSIDE = re.compile(r"\]\((?P<path>(?:\.\./)+[^)#\s]+)(?P<rest>#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Return *markdown* with links to files outside docs/ as addresses of the repository."""
    folder = PurePosixPath("docs") / PurePosixPath(page.file.src_uri).parent

    def leading_out(found: re.Match[str]) -> str:
        target = normal(folder / found["path"])
        if target.parts[0] == "docs":
            return found[0]
        return f"]({config.extra['repository']}/blob/main/{target}{found['rest'] or ''})"

    return OUTSIDE.sub(leading_out, markdown)


def normal(path: PurePosixPath) -> PurePosixPath:
    """Return *path* without its "..", as far as that goes."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return PurePosixPath(*parts)
