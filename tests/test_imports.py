"""Data flows one way, from builders through shards and scorers to benchmarks, and so do the imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FREE = {"console", "errors", "options", "progress", "__version__"}
"""Root modules that import no package and that every module may import."""
MAY_IMPORT = {
    "jobs": set[str](),
    "shards": {"jobs"},
    "shapes": set[str](),
    "pipelines": {"shards"},
    "builders": {"jobs", "shards", "shapes", "pipelines"},
    "scorers": {"shards", "shapes", "pipelines"},
    "training": {"shards", "pipelines", "scorers", "benchmarks"},
    "benchmarks": {"jobs", "shards", "pipelines", "builders", "scorers"},
    "sampling": {"shards", "pipelines", "scorers", "benchmarks"},
    "shapes.recipe": {"shapes", "shards", "builders", "scorers", "training", "benchmarks"},
    "commands": {"jobs", "shards", "pipelines", "builders", "scorers", "training", "benchmarks", "sampling"},
    "cli": {"commands"},
    "console": set[str](),
    "errors": set[str](),
    "options": set[str](),
    "progress": set[str](),
    "api": {"shards", "scorers", "benchmarks", "sampling"},
    "__init__": {"api", "builders", "shards", "benchmarks", "sampling"},
    "__main__": {"cli"},
}
"""What each package or root module may import."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package by its name, without `nbench.`"""
    folders = {name.partition(".")[0] for name in MAY_IMPORT if (ROOT / name.partition(".")[0]).is_dir()}
    for path in [*ROOT.glob("*.py"), *(file for folder in sorted(folders) for file in (ROOT / folder).rglob("*.py"))]:
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), ast.parse(path.read_text(encoding="utf-8"))


def package(module: str) -> str:
    """The key of `MAY_IMPORT` that a module belongs to."""
    first, _, rest = module.partition(".")
    return "shapes.recipe" if first == "shapes" and rest.partition(".")[0] == "recipe" else first


def imported(module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """All imports of a module, nested ones too: line and full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ["nbench", *module.split(".")[: -node.level]] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (
                (node.lineno, f"{source}.{alias.name}" if source == "nbench" else source) for alias in node.names
            )


def test_imports_go_one_way() -> None:
    violations, pairs = [], set()
    for module, tree in modules():
        for line, name in imported(module, tree):
            if name.startswith("nbench."):
                pair = package(module), package(name.removeprefix("nbench."))
                pairs.add(pair)
                if pair[0] != pair[1] and pair[1] not in FREE | MAY_IMPORT[pair[0]]:
                    violations.append(f"{module}:{line} imports {name}")
    assert violations == []
    assert {(of, to) for of, allowed in MAY_IMPORT.items() for to in allowed} <= pairs  # each entry is used


def test_what_is_allowed_has_no_circle() -> None:
    assert set(TopologicalSorter(MAY_IMPORT).static_order()) == set(MAY_IMPORT)


def test_shards_need_neither_torch_nor_diffusers() -> None:
    for module, tree in modules():
        if package(module) == "shards":
            assert not {name.partition(".")[0] for _, name in imported(module, tree)} & {"torch", "diffusers"}, module


def test_metrics_know_nothing_of_files() -> None:
    for module, tree in modules():
        if module.startswith("benchmarks.metrics."):
            names = {name.removeprefix("nbench.") for _, name in imported(module, tree) if name.startswith("nbench.")}
            assert {
                name
                for name in names
                if not name.startswith(("benchmarks.metrics", "shards.schema", "shards.signals", "errors"))
            } == set(), module
