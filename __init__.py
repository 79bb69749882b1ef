"""Record what a text-to-image diffusion model knows at every step, and measure scorers on it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import compare, evaluate, leaderboard, publish, replay, tune
    from .benchmarks.build import build
    from .builders.config import BuildConfig
    from .errors import NbenchError
    from .sampling import AlignmentMonitor, BestOfN, Engine
    from .shards.reader import open_bench

_MODULES = {
    "AlignmentMonitor": "sampling",
    "BestOfN": "sampling",
    "BuildConfig": "builders.config",
    "Engine": "sampling",
    "NbenchError": "errors",
    "build": "benchmarks.build",
    "compare": "api",
    "evaluate": "api",
    "leaderboard": "api",
    "open_bench": "shards.reader",
    "publish": "api",
    "replay": "api",
    "tune": "api",
}
__all__ = [
    "AlignmentMonitor",
    "BestOfN",
    "BuildConfig",
    "Engine",
    "NbenchError",
    "__version__",
    "build",
    "compare",
    "evaluate",
    "leaderboard",
    "open_bench",
    "publish",
    "replay",
    "tune",
]


def __getattr__(name: str) -> object:
    """Import public names on first use (PEP 562), so that `import nbench` stays instant."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
