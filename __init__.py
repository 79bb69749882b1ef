"""Record what a text-to-image diffusion model knows at every step, and measure scorers on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["AlignmentMonitor", "BestOfN", "Engine", "__version__", "build", "open_bench"]

if TYPE_CHECKING:
    from .benchmarks.scoring.references import build
    from .sampling import AlignmentMonitor, BestOfN, Engine
    from .shards.reader import open_bench


def __getattr__(name: str) -> object:
    """Import public names on first use (PEP 562), so that `import nbench` stays instant."""
    if name == "open_bench":
        from .shards.reader import open_bench

        return open_bench
    if name == "build":
        from .benchmarks.scoring.references import build

        return build
    if name in ("AlignmentMonitor", "BestOfN", "Engine"):
        from . import sampling

        return getattr(sampling, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
