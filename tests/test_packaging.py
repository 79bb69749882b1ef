"""The wheel: all of the package and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_wheel_installs_nbench_with_its_weights_and_nothing_else(checkout: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *options, "--target", site, checkout], check=True)

    installed = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    tops = {name.partition("/")[0] for name in installed}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"nbench", "bin"}  # bin: the console script
    assert not [name for name in installed if "/tests/" in name or "/data/" in name]

    code = {f"nbench/{path.relative_to(checkout)}" for path in _shipped(checkout)}
    assert code - installed == set()
    assert {f"nbench/shapes/weights/{name}/config.json" for name in ("clip", "noisyclip", "vqa")} <= installed
    assert {"nbench/shapes/weights/pipeline/model_index.json", "nbench/py.typed"} <= installed
    assert {f"nbench/scorers/environments/pins/{name}.txt" for name in ("t2v_metrics", "hpsv3")} <= installed
    page = {path.relative_to(checkout).as_posix() for path in (checkout / "benchmarks/report/static").rglob("*.*")}
    assert {f"nbench/{name}" for name in page} <= installed
    assert "benchmarks/report/static/vendor/plot.LICENSE" in page

    where = "import nbench.cli, nbench.shapes.recipe; print(nbench.__file__)"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {where}"]
    process = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert process.stdout.strip() == str(site / "nbench" / "__init__.py")


def _shipped(checkout: Path) -> list[Path]:
    """Every module and weights file of the repository but what is for development alone."""
    aside = {"tests", "perf", "experiments", "docs", "build"}
    modules = [path for path in checkout.rglob("*.py") if path.relative_to(checkout).parts[0] not in aside]
    return modules + [path for path in (checkout / "shapes/weights").rglob("*") if path.is_file()]
