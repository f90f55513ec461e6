"""Where the links of a page lead: Markdown, notebooks and HTML, without a network."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt

MACHINE_PATH = re.compile(r"file://|(?<![\w.~/-])/(?:home|root|Users|mnt|work|var|private)/\w|\b[A-Z]:\\\w")
_ADDRESS = re.compile(r"https://[\w-]+(\.[\w-]+)+(:\d+)?(/\S*)?")
_LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}


@dataclass
class Found(HTMLParser):
    """Links and anchors of a page; as a parser it collects those of HTML.

    Attributes
    ----------
    targets : list of str
        Where its links and pictures lead, as they stand there.
    loaded : list of str
        Those of them that a browser fetches without being asked.
    anchors : set of str
    """

    targets: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect one tag's."""
        for name, value in attrs:
            if name == "id" or (tag, name) == ("a", "name"):
                self.anchors.add(value or "")
            elif name in ("href", "src"):
                self.targets.append(value or "")
                if (tag, name) in _LOADED:
                    self.loaded.append(value or "")


def links(page: Path) -> Found:
    """Links and anchors of a Markdown page, a notebook's text or an HTML page; code is not looked into."""
    text, found = page.read_text(encoding="utf-8"), Found()
    if page.suffix == ".html":
        found.feed(text)
    elif page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        _read_markdown("\n\n".join("".join(cell["source"]) for cell in cells), found)
    else:
        _read_markdown(text, found)
    return found


def problems(page: Path, root: Path | None = None) -> list[str]:
    """What is wrong with the links of a page, in words; empty if nothing is.

    Parameters
    ----------
    page : Path
        Ends in .md, .ipynb or .html.
    root : Path, optional
        Folder that no link may leave. Default: the page's own.
    """
    root, found = (root or page.parent).resolve(), links(page)
    wrong = [f"{target!r} {reason}" for target in found.targets if (reason := _reason(target, page, root, found))]
    wrong += [f"{target!r} is fetched from a network" for target in found.loaded if urlsplit(target).netloc]
    wrong += [f"the text names {path!r}" for path in MACHINE_PATH.findall(page.read_text(encoding="utf-8"))]
    return wrong


def external(page: Path) -> set[str]:
    """Addresses outside the project that a page links to."""
    return {target for target in links(page).targets if urlsplit(target).netloc}


def slug(heading: str) -> str:
    """Anchor of a heading as GitHub makes it.

    >>> slug("Which selector finds what? (`t`, AUROC)")
    'which-selector-finds-what-t-auroc'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _read_markdown(text: str, found: Found) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            inline = tokens[number + 1].children or []
            anchor = name = slug("".join(part.content for part in inline))
            repeats = 0
            while anchor in found.anchors:
                repeats += 1
                anchor = f"{name}-{repeats}"
            found.anchors.add(anchor)
        for part in [token, *(token.children or [])]:
            if part.type in ("html_block", "html_inline"):
                found.feed(part.content)
            found.targets += [str(part.attrs[key]) for key in ("href", "src") if key in part.attrs]


def _reason(target: str, page: Path, root: Path, found: Found) -> str:
    """Why a link leads nowhere; empty if it leads somewhere."""
    parts = urlsplit(target)
    if parts.scheme == "data":
        return ""
    if parts.scheme or parts.netloc:
        ok = (
            parts.scheme == "https"
            and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc)
            and not re.search(r"\s", target)
        )
        return "" if ok else "is no https address"
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page.resolve()
    if parts.path.startswith("/") or not path.is_relative_to(root):
        return "leads out of the project"
    if not path.exists():
        return "does not exist"
    if not parts.fragment:
        return "" if parts.path else "is empty"
    anchors = found.anchors if path == page.resolve() else links(path).anchors
    return "" if unquote(parts.fragment) in anchors else "names no heading there"
