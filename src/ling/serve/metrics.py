"""`/metrics`: what the engine counted, and the HTTP replies, in Prometheus's text format.

The engine's numbers are collected when somebody asks for them, so that its thread pays nothing for
it. Names are vLLM's with our prefix. No label has a value that a client chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client import Counter as HttpCounter
from prometheus_client import Histogram as HttpHistogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric

from ..infer.histogram import LONG_SECONDS, Histogram

if TYPE_CHECKING:
    from ..infer.engine import Engine
    from ..infer.stats import Stats
    from .served import Served
    from .service import Service

PREFIX = "ling"
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Row(NamedTuple):
    """A metric of the engine: its name, what it is, and where it is counted."""

    name: str
    help: str
    value: Callable[[Engine], Any]


GAUGES = (
    Row("num_requests_running", "Requests that run.", lambda e: len(e.scheduler.running)),
    Row("num_requests_waiting", "Requests that wait.", lambda e: len(e.scheduler.waiting)),
    Row(
        "kv_cache_usage_perc",
        "Share of the KV cache's pages in use; 1 is all of them.",
        lambda e: 1 - e.pool.available / e.pool.num_pages,
    ),
)
COUNTERS = (
    Row("prompt_tokens", "Tokens of prompts, cached ones too.", lambda e: e.stats.prompt_tokens),
    Row("generation_tokens", "Generated tokens.", lambda e: e.stats.generated),
    Row("engine_seconds", "Seconds that steps of the engine took.", lambda e: e.stats.seconds),
    Row(
        "prefix_cache_queries",
        "Prompt tokens that were looked up in the prefix cache.",
        lambda e: e.stats.prefix_queries,
    ),
    Row(
        "prefix_cache_hits",
        "Prompt tokens that were found in the prefix cache.",
        lambda e: e.stats.prefix_hits,
    ),
    Row(
        "num_preemptions",
        "Times that a running request lost its pages.",
        lambda e: e.stats.preemptions,
    ),
    Row(
        "grammar_forced_tokens",
        "Generated tokens that a grammar left no choice about.",
        lambda e: e.stats.forced,
    ),
    Row("spec_decode_num_draft_tokens", "Drafted tokens.", lambda e: e.stats.drafted),
    Row(
        "spec_decode_num_accepted_tokens",
        "Drafted tokens that the model itself chose.",
        lambda e: e.stats.accepted,
    ),
)
HISTOGRAMS = (
    Row(
        "time_to_first_token_seconds",
        "From a request's arrival to its first token.",
        lambda e: e.stats.time_to_first_token,
    ),
    Row(
        "inter_token_latency_seconds",
        "Between two steps that bring a request tokens.",
        lambda e: e.stats.inter_token,
    ),
    Row(
        "e2e_request_latency_seconds",
        "From a request's arrival to its last token.",
        lambda e: e.stats.end_to_end,
    ),
    Row(
        "request_queue_time_seconds",
        "From a request's arrival until it first runs.",
        lambda e: e.stats.queue_time,
    ),
    Row(
        "request_prefill_time_seconds",
        "From when a request first runs to its first token.",
        lambda e: e.stats.prefill_time,
    ),
    Row(
        "request_decode_time_seconds",
        "From a request's first token to its last.",
        lambda e: e.stats.decode_time,
    ),
    Row(
        "request_prompt_tokens",
        "Prompt tokens of finished requests.",
        lambda e: e.stats.request_prompt_tokens,
    ),
    Row(
        "request_generation_tokens",
        "Generated tokens of finished requests.",
        lambda e: e.stats.request_output_tokens,
    ),
    Row("iteration_tokens", "Rows of a step of the engine.", lambda e: e.stats.step_tokens),
    Row(
        "grammar_compile_seconds",
        "What a grammar took to compile.",
        lambda e: e.stats.grammar_compile,
    ),
    Row(
        "grammar_mask_seconds",
        "What the mask of a constrained choice took.",
        lambda e: e.stats.grammar_mask,
    ),
)


class EngineCollector:
    """Reads the engine's counters, once there is an engine."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """The metrics of now."""
        names, values = ["model_name"], [self._service.name]
        llm = self._service.llm
        if llm is None:
            return
        engine = llm.engine
        for row in GAUGES:
            gauge = GaugeMetricFamily(f"{PREFIX}:{row.name}", row.help, labels=names)
            gauge.add_metric(values, row.value(engine))
            yield gauge
        for row in COUNTERS:
            counter = CounterMetricFamily(f"{PREFIX}:{row.name}", row.help, labels=names)
            counter.add_metric(values, row.value(engine))
            yield counter
        for row in HISTOGRAMS:
            yield _histogram(row, row.value(engine), names, values)
        yield _ended(engine.stats, self._service)
        info = InfoMetricFamily(f"{PREFIX}:cache_config", "The KV cache.", labels=names)
        info.add_metric(values, {"num_pages": str(engine.pool.num_pages)})
        yield info


def _ended(stats: Stats, service: Service) -> Metric:
    """Requests of the model itself and of each adapter."""
    ended = CounterMetricFamily(
        f"{PREFIX}:request_success",
        "Requests that ended, by reason, and by model or adapter.",
        labels=["model_name", "finished_reason"],
    )
    for reason in ("stop", "length", "abort", "error"):
        of_adapters = 0
        for number, name in enumerate(service.adapters, 1):
            count = stats.finished_under[number, reason]
            of_adapters += count
            ended.add_metric([name, reason], count)
        ended.add_metric([service.name, reason], stats.finished[reason] - of_adapters)
    return ended


def _histogram(row: Row, histogram: Histogram, names: list[str], values: list[str]) -> Metric:
    family = HistogramMetricFamily(f"{PREFIX}:{row.name}", row.help, labels=names)
    bounds = [*(f"{bound:.6g}" for bound in histogram.bounds), "+Inf"]
    buckets = [(b, float(n)) for b, n in zip(bounds, histogram.cumulative(), strict=True)]
    family.add_metric(values, buckets, histogram.sum)
    return family


class Metrics:
    """The registry of one app."""

    def __init__(self, service: Service) -> None:
        registry = self._registry = CollectorRegistry()
        registry.register(EngineCollector(service))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self._replies = HttpCounter(
            "http_requests", "HTTP replies.", ["method", "handler", "status"], registry=registry
        )
        self._seconds = HttpHistogram(
            "http_request_duration_seconds",
            "From a request's head to the end of its reply, streams included.",
            ["handler"],
            buckets=LONG_SECONDS,
            registry=registry,
        )

    def observe(self, served: Served) -> None:
        """Count a reply."""
        method = served.method if served.method in METHODS else "other"
        self._replies.labels(method, served.handler, str(served.status)).inc()
        self._seconds.labels(served.handler).observe(served.seconds)

    def text(self) -> bytes:
        """All metrics of now."""
        return generate_latest(self._registry)
