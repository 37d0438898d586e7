"""The project's pages as the tests read them: their headings, links and blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md", *DOCS]

_FENCE = re.compile(r"^```(\w*)(?: title=\"(.*?)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.*)$")
_LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A block of code. `title` is what its fence says beside its kind: `needs torch`, say."""

    kind: str
    title: str
    body: str
    section: str  # the heading of the second level that it stands under
    line: int


def text_of(page: Path) -> str:
    """A page's text, with line ends as they are written here."""
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = text_of(page)
    return [
        Block(kind=found[1], title=found[2] or "", body=found[3], section=_section(above), line=above.count("\n") + 1)
        for found in _FENCE.finditer(text)
        for above in [text[: found.start()]]
    ]


def _section(above: str) -> str:
    sections = [heading[2] for line in prose(above) if (heading := _HEADING.match(line)) and heading[1] == "##"]
    return sections[-1] if sections else ""


def prose(text: str) -> Iterator[str]:
    """The lines that stand in no block of code."""
    return iter(re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).split("\n"))


def anchors(page: Path) -> set[str]:
    """What can stand behind # in a link to this page: its headings, as GitHub and the site write them."""
    found = (_HEADING.match(line) for line in prose(text_of(page)))
    return {re.sub(r"[^\w\- ]", "", heading[2].lower()).replace(" ", "-") for heading in found if heading}


def links(page: Path) -> list[str]:
    """The relative links and pictures of a page."""
    return [link for line in prose(text_of(page)) for link in _LINK.findall(line)]


def assert_same(got: Any, shown: Any, where: str = "") -> None:
    """An answer is the one that is shown: to rounding, and with zeros where zeros are shown."""
    if isinstance(shown, dict):
        assert got.keys() == shown.keys(), where
        for key in shown:
            assert_same(got[key], shown[key], f"{where}/{key}")
    elif isinstance(shown, float):
        np.testing.assert_allclose(got, shown, rtol=0, atol=1e-12, err_msg=where)
    elif isinstance(shown, list) and shown and isinstance(shown[0], (list, float)):
        np.testing.assert_allclose(got, shown, rtol=0, atol=1e-12, err_msg=where)
        assert (np.array(got) == 0).tolist() == (np.array(shown) == 0).tolist(), "zeros past the end are exact"
    elif isinstance(shown, list):
        assert len(got) == len(shown), where
        for k, item in enumerate(shown):
            assert_same(got[k], item, f"{where}/{k}")
    else:
        assert got == shown, where
