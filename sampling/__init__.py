"""Online use: pruning while sampling, Best-of-N, the monitor; policies and their replay on recorded scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["AlignmentMonitor", "BestOfN", "Engine"]

if TYPE_CHECKING:
    from .bestofn import BestOfN
    from .engine import Engine
    from .monitor import AlignmentMonitor


def __getattr__(name: str) -> object:
    """Import on first use (PEP 562): replaying policies needs no torch."""
    if name == "BestOfN":
        from .bestofn import BestOfN

        return BestOfN
    if name == "Engine":
        from .engine import Engine

        return Engine
    if name == "AlignmentMonitor":
        from .monitor import AlignmentMonitor

        return AlignmentMonitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
