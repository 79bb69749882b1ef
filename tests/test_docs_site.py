"""The docs as a site: it builds without a warning, no link is dead, and its pages load nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

import nbench

ROOT = Path(__file__).parents[1]


@dataclass
class Page(HTMLParser):
    """The anchors, links and loaded resources of an HTML page."""

    text: str
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(values["href"])
        elif "src" in values:
            self.loaded.append(values["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    folder = tmp_path_factory.mktemp("site")
    command = [str(Path(sys.executable).with_name("mkdocs")), "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: Page(path.read_text("utf-8")) for path in folder.rglob("*.html") if path.name != "404.html"}


@pytest.mark.slow
def test_links_and_anchors_lead_somewhere(site: dict[Path, Page]) -> None:
    assert {"index.html", "api.html", "quickstart.html", "metrics.html"} <= {path.name for path in site}
    dead = []
    for path, page in site.items():
        for link in (*page.links, *page.loaded):
            target, anchor = urldefrag(link)
            if urlsplit(target).scheme:
                continue
            place = (path.parent / unquote(target)).resolve() if target else path
            if not place.exists() or (anchor and place in site and unquote(anchor) not in site[place].anchors):
                dead.append(f"{path.name}: {link}")
    assert dead == []


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: dict[Path, Page]) -> None:
    loaded = {link for page in site.values() for link in page.loaded}
    assert loaded
    assert {link for link in loaded if urlsplit(link).scheme not in ("", "data")} == set()
    styles = list(next(path for path in site if path.name == "index.html").parent.rglob("*.css"))
    assert styles
    assert not any(re.search(r"(@import|url\()[\"' ]*(https?:)?//", path.read_text("utf-8")) for path in styles)


@pytest.mark.slow
def test_every_public_name_has_its_place_in_the_reference(site: dict[Path, Page]) -> None:
    reference = next(page for path, page in site.items() if path.name == "api.html")
    names = set(nbench.__all__) - {"__version__"}
    assert names
    assert {name for name in names if f"nbench.{name}" not in reference.anchors} == set()
    assert "Candidates (seeds) per prompt." in reference.text  # the help of options
