"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ..bestofn import BestOfNResult
from ..engine import Engine

_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The counts of an engine, read when asked for, and histograms of the requests that were answered."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._registry = engine, CollectorRegistry()
        self._registry.register(self)
        self._seconds = Histogram(
            "nbench_request_seconds",
            "From a request's arrival to its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._saved = Histogram(
            "nbench_saved_ratio",
            "Denoiser rows that pruning saved, of those of all candidates.",
            buckets=[i / 10 for i in range(11)],
            registry=self._registry,
        )

    def answered(self, result: BestOfNResult, seconds: float) -> None:
        """Count an answer that took `seconds` from its arrival."""
        self._seconds.observe(seconds)
        self._saved.observe(1 - result.denoiser_rows / result.full_denoiser_rows)

    def text(self) -> bytes:
        """All metrics in Prometheus' format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Any]:
        """The engine's counts: for prometheus_client."""
        stats = self._engine.stats
        for name, value, meaning in (
            ("waiting", stats.waiting, "Requests that have not begun."),
            ("running", stats.running, "Requests under way."),
            ("candidates", stats.candidates, "Candidates that go on."),
        ):
            yield GaugeMetricFamily(f"nbench_{name}", meaning, value)
        ended = CounterMetricFamily("nbench_requests", "Requests that have ended, by outcome.", labels=["outcome"])
        for outcome in ("finished", "failed", "cancelled"):
            ended.add_metric([outcome], getattr(stats, outcome))
        yield ended
        alone = CounterMetricFamily("nbench_alone_calls", "Denoiser calls that were not joined.", labels=["reason"])
        for reason, count in stats.alone.items():
            alone.add_metric([reason], count)
        yield alone
        for name, value, meaning in (
            ("denoiser_calls", stats.calls, "Denoiser calls of pipelines."),
            ("denoiser_batches", stats.batches, "Runs of the denoiser that answered them."),
            ("denoiser_rows", stats.rows, "Rows of these runs."),
        ):
            yield CounterMetricFamily(f"nbench_{name}", meaning, value)
