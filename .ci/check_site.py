"""Checks a site that was built: nothing is loaded from another host, and no link leads nowhere.

python .ci/check_site.py FOLDER
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_STYLE = re.compile(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//")


class Page(HTMLParser):
    """What a page has of anchors, where it leads, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given[name] or "" for name in ("id", "name") if name in given}
        for name in ("href", "src", "srcset"):
            if given.get(name):
                (self.links if tag == "a" else self.loads).append(given[name] or "")


def foreign(link: str) -> bool:
    """Whether a link leads to another host."""
    return bool(urlsplit(link).netloc)


def faults(folder: Path) -> list[str]:
    """What is wrong, a line each."""
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html")) if path.name != "404.html"}
    found = [f"{path}: loads {link}" for path, page in pages.items() for link in page.loads if foreign(link)]
    found += [f"{path}: loads from elsewhere" for path in folder.rglob("*.css") if _STYLE.search(path.read_text())]
    for path, page in pages.items():
        for link in page.links + page.loads:
            to = urlsplit(link)
            if foreign(link) or to.scheme:
                continue
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (to.fragment and target in pages and to.fragment not in pages[target].anchors):
                found.append(f"{path}: {link} leads nowhere")
    return found if pages else [f"{folder} has no pages"]


def main() -> int:
    """Prints what is wrong; 1 if there is anything."""
    wrong = faults(Path(sys.argv[1]).resolve())
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
