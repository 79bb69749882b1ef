"""Pages of the site that are not in docs/: the README and other files of the repository, and the notebook."""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.md",
    "shapes/weights/README.md": "world.md",
    "docs/quickstart.ipynb": "quickstart.md",
}
"""Files of the repository by the page that shows them."""
_LINK = re.compile(r'(\]\(|src=")(?![a-z]+:|#)([^)#"\s]+)')


def on_startup(**_: Any) -> None:
    """Link the package's files below build/api for mkdocstrings, which reads all of a package's folder: here that
    is the repository, with its .venv."""
    package = ROOT / "build" / "api" / "nbench"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.suffix == ".py" or (path / "__init__.py").is_file():
            (package / path.name).symlink_to(path)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages; a hook of mkdocs."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=linked(_text(ROOT / name), name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to files of the repository to their pages; a hook of mkdocs."""
    return markdown if page.file.generated_by else linked(markdown, f"docs/{page.file.src_uri}")


def linked(markdown: str, name: str) -> str:
    """The Markdown of the file `name` with links to other files as links between pages."""

    def page_of(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link[2]))
        return f"{link[1]}{PAGES.get(target, target.removeprefix('docs/'))}"

    return _LINK.sub(page_of, markdown)


def _text(path: Path) -> str:
    if path.suffix == ".ipynb":
        return "\n\n".join(_cell(cell) for cell in nbformat.read(path, as_version=4).cells)
    text = path.read_text("utf-8")
    return text if path.suffix == ".md" else f"# Licence\n\n```\n{text}```\n"


def _cell(cell: Any) -> str:
    if cell.cell_type == "markdown":
        return str(cell.source)
    return "\n\n".join([f"```python\n{cell.source}\n```", *map(_output, cell.outputs)])


def _output(output: Any) -> str:
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return f"![]({'data:image/png;base64,' + data['image/png'].replace(chr(10), '')})"
    return str(data.get("text/html") or f"```\n{data['text/plain']}\n```")
