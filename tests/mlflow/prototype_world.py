"""Traces for the prototype's promises: the plan, and how it gets into MLflow.

The plan says everything that a filter can ask about.  Tests compute the
expected traces from the plan, never from an answer of the engine; beside every
hit stand near misses (one LLM call too few, `gpt-4-turbo` beside `gpt-4`, a
boundary value itself, the right value on another attribute).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import mlflow

MS = 1_000_000
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class PlannedSpan:
    """One span; ``status`` is OK or ERROR."""

    name: str
    type: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    status: str = "OK"


@dataclass(frozen=True)
class PlannedTrace:
    """One trace; the first span is the root and its status is the trace's.

    ``ms`` is the execution time, ``age_h`` how long ago it began, in hours.
    """

    key: str
    spans: Sequence[PlannedSpan]
    ms: int = 1500
    age_h: float = 1.0
    tags: Mapping[str, str] = field(default_factory=dict)
    feedback: Mapping[str, Any] = field(default_factory=dict)
    expectations: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return self.spans[0].status

    def count(self, **wanted: str) -> int:
        """How many spans have all of these columns."""
        return sum(all(getattr(s, k) == v for k, v in wanted.items()) for s in self.spans)

    def named(self, part: str) -> int:
        """How many spans have ``part`` in their name."""
        return sum(part in s.name for s in self.spans)

    def has(self, key: str, value: Any) -> bool:
        """Whether some span has the attribute with just this value."""
        return any(k == key and v == value for s in self.spans for k, v in s.attributes.items())

    def above(self, name: str, bound: float, *, or_equal: bool = False) -> bool:
        """Whether a numeric feedback exceeds the bound."""
        value = self.feedback.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return value >= bound if or_equal else value > bound

    def assessed(self, name: str, value: Any) -> bool:
        """Whether a feedback or an expectation of that name has the value."""
        return value in (self.feedback.get(name), self.expectations.get(name))


def span(name: str, type_: str, status: str = "OK", **attributes: Any) -> PlannedSpan:
    return PlannedSpan(name, type_, attributes, status)


def llm(count: int, **attributes: Any) -> list[PlannedSpan]:
    return [span(f"generate_{n}", "LLM", **attributes) for n in range(count)]


CHAIN = span("process", "CHAIN")
FAILED_CHAIN = span("process", "CHAIN", "ERROR")
AGENT = span("support_agent", "AGENT")
FAILED_AGENT = span("support_agent", "AGENT", "ERROR")
RETRIEVER = span("vector_search", "RETRIEVER")
TOOL = span("calculator", "TOOL")
PRODUCTION = {"environment": "production"}

PLAN = (
    # Plain traces: types, times and states at the bounds of the filters.
    PlannedTrace("fast", [CHAIN, *llm(1)], ms=420),
    PlannedTrace("just under a second", [CHAIN, *llm(1)], ms=999),
    PlannedTrace("just a second", [CHAIN, *llm(1)], ms=1000),
    PlannedTrace("no model call", [CHAIN], ms=700),
    PlannedTrace("two days old", [CHAIN, *llm(1)], age_h=48),
    PlannedTrace("three days old and failed", [FAILED_CHAIN, *llm(1)], age_h=72),
    PlannedTrace("failed", [FAILED_CHAIN, *llm(1)]),
    PlannedTrace("slow model", [CHAIN, *llm(1)], ms=3001),
    PlannedTrace("slow, at the bound", [CHAIN, *llm(1)], ms=3000),
    PlannedTrace("slow without a model", [CHAIN, TOOL], ms=6000),
    # Names.
    PlannedTrace("database", [CHAIN, span("query_database", "TOOL")], ms=10_001),
    PlannedTrace("databases, slow", [AGENT, span("database_write", "TOOL")], ms=12_000),
    PlannedTrace("Database in capitals", [CHAIN, span("Database", "TOOL")], ms=10_000),
    # A failed span in a trace that went well, and the other way round.
    PlannedTrace("recovered", [CHAIN, span("fetch", "TOOL", "ERROR"), *llm(1)]),
    PlannedTrace("failed in the root only", [FAILED_AGENT, TOOL]),
    # Attributes: the value, a longer value, the value elsewhere.
    PlannedTrace("gpt-4", [CHAIN, *llm(1, model="gpt-4", temperature=0.7)]),
    PlannedTrace("gpt-4-turbo", [CHAIN, *llm(1, model="gpt-4-turbo")]),
    PlannedTrace("gpt-4 as fallback", [CHAIN, *llm(1, model="gpt-3.5-turbo", fallback="gpt-4")]),
    PlannedTrace("claude", [CHAIN, *llm(1, model="claude-3")], feedback={"quality": 0.8}),
    PlannedTrace("claude, poor", [CHAIN, *llm(1, model="claude-3")], feedback={"quality": 0.3}),
    PlannedTrace("model_name, good", [CHAIN, *llm(1, model_name="gpt-4", response_quality="high")]),
    PlannedTrace("model_name, bad", [CHAIN, *llm(1, model_name="gpt-4", response_quality="low")]),
    PlannedTrace("good without a model", [CHAIN, span("grade", "TOOL", response_quality="high")]),
    PlannedTrace(
        "complex reasoning, failed span",
        [CHAIN, span("reason", "LLM", "ERROR", prompt_template="complex_reasoning")],
    ),
    PlannedTrace("complex reasoning", [CHAIN, *llm(1, prompt_template="complex_reasoning")]),
    # Counts.
    PlannedTrace("three model calls", [CHAIN, *llm(3)], ms=5001),
    PlannedTrace("four model calls", [CHAIN, *llm(4)], ms=5001),
    PlannedTrace("five quick model calls", [CHAIN, *llm(5)], ms=5000),
    PlannedTrace("chain of chains", [CHAIN, span("inner", "CHAIN"), RETRIEVER]),
    PlannedTrace("chains without retrieval", [CHAIN, span("inner", "CHAIN")]),
    PlannedTrace("five chains", [CHAIN] * 5),
    PlannedTrace("five failed chains", [FAILED_CHAIN, *[CHAIN] * 4]),
    PlannedTrace("four chains", [CHAIN] * 4),
    PlannedTrace("retries and fails", [CHAIN, *[span("call_retry", "TOOL", "ERROR")] * 3], ms=2500),
    PlannedTrace("retries and succeeds", [CHAIN, *[span("call_retry", "TOOL")] * 3], ms=2500),
    PlannedTrace("retries twice", [CHAIN, *[span("retry_call", "TOOL", "ERROR")] * 2]),
    PlannedTrace("three retrievals and a tool", [AGENT, *[RETRIEVER] * 3, TOOL]),
    PlannedTrace("three retrievals", [AGENT, *[RETRIEVER] * 3]),
    PlannedTrace("two retrievals and a tool", [AGENT, *[RETRIEVER] * 2, TOOL]),
    PlannedTrace("model and tool", [AGENT, *llm(1), TOOL]),
    PlannedTrace("retrieval without a chain", [AGENT, RETRIEVER, *llm(1)]),
    # Tags.
    PlannedTrace("production", [CHAIN, *llm(1)], tags=PRODUCTION),
    PlannedTrace("staging", [CHAIN, *llm(1)], tags={"environment": "staging"}),
    PlannedTrace(
        "enterprise on v2.0",
        [CHAIN, *llm(1), span("advanced_analysis", "TOOL")],
        tags={"customer_tier": "enterprise", "version": "v2.0"},
    ),
    PlannedTrace(
        "enterprise on v2.0.1",
        [CHAIN, *llm(1)],
        tags={"customer_tier": "enterprise", "version": "v2.0.1"},
    ),
    PlannedTrace("free on v2.0", [CHAIN], tags={"customer_tier": "free", "version": "v2.0"}),
    PlannedTrace("analysis for free", [CHAIN, span("advanced_analysis", "TOOL")]),
    PlannedTrace("advanced_analysis_v2", [CHAIN, span("advanced_analysis_v2", "TOOL")]),
    PlannedTrace(
        "production failure on v2.0.1", [FAILED_CHAIN], tags={**PRODUCTION, "version": "v2.0.1"}
    ),
    PlannedTrace(
        "production failure on v2.0.0", [FAILED_CHAIN], tags={**PRODUCTION, "version": "v2.0.0"}
    ),
    PlannedTrace("production on v2.0.1", [CHAIN], tags={**PRODUCTION, "version": "v2.0.1"}),
    # Feedback and assessments.
    PlannedTrace(
        "quality", [CHAIN, *llm(1)], feedback={"quality": 0.81, "user_rating": 5}, ms=1999
    ),
    PlannedTrace("rated 4", [CHAIN, *llm(1)], feedback={"user_rating": 4}, ms=800),
    PlannedTrace("rated 3", [CHAIN, *llm(1)], feedback={"user_rating": 3}),
    PlannedTrace("rated 5, slow", [CHAIN], feedback={"user_rating": 5}, ms=2000),
    PlannedTrace("rated in words", [CHAIN], feedback={"user_rating": "5", "quality": True}),
    PlannedTrace(
        "correct and safe",
        [CHAIN, RETRIEVER, *llm(1)],
        feedback={"accuracy": "correct", "safety": "safe"},
    ),
    PlannedTrace(
        "correct and expected safe",
        [CHAIN, *llm(1)],
        feedback={"accuracy": "correct"},
        expectations={"safety": "safe"},
    ),
    PlannedTrace("correct, unsafe", [CHAIN], feedback={"accuracy": "correct", "safety": "unsafe"}),
    PlannedTrace("wrong but safe", [CHAIN], feedback={"accuracy": "wrong", "safety": "safe"}),
    PlannedTrace("highly accurate", [CHAIN, RETRIEVER], feedback={"accuracy": "high"}),
    PlannedTrace("highly accurate from memory", [CHAIN], feedback={"accuracy": "high"}),
    # The complex searches, each clause failing once.
    PlannedTrace(
        "all is well", [CHAIN, *llm(2)], tags=PRODUCTION, feedback={"quality": 0.71}, ms=4999
    ),
    PlannedTrace(
        "well, newer", [CHAIN, *llm(3)], tags=PRODUCTION, feedback={"quality": 0.9}, age_h=0.5
    ),
    PlannedTrace(
        "well but slow", [CHAIN, *llm(2)], tags=PRODUCTION, feedback={"quality": 0.9}, ms=5000
    ),
    PlannedTrace("well but one call", [CHAIN, *llm(1)], tags=PRODUCTION, feedback={"quality": 0.9}),
    PlannedTrace("well but poor", [CHAIN, *llm(2)], tags=PRODUCTION, feedback={"quality": 0.7}),
    PlannedTrace("well, not rated", [CHAIN, *llm(2)], tags=PRODUCTION),
    PlannedTrace("well in staging", [CHAIN, *llm(2)], feedback={"quality": 0.9}),
    PlannedTrace(
        "failed well", [FAILED_CHAIN, *llm(2)], tags=PRODUCTION, feedback={"quality": 0.9}
    ),
    PlannedTrace("very slow in production", [CHAIN], tags=PRODUCTION, ms=10_002),
    PlannedTrace("at ten seconds in production", [CHAIN], tags=PRODUCTION, ms=10_000),
    # Performance.
    PlannedTrace("cached as true", [CHAIN, span("lookup", "TOOL", cache_hit=True)], ms=120),
    PlannedTrace("cached as text", [CHAIN, span("lookup", "TOOL", cache_hit="true")], ms=900),
    PlannedTrace("not cached", [CHAIN, span("lookup", "TOOL", cache_hit=False)], ms=499),
    PlannedTrace("half a second", [CHAIN, span("lookup", "TOOL", cache_hit=False)], ms=500),
    PlannedTrace(
        "timeout of the service",
        [CHAIN, span("call", "TOOL", "ERROR", error_type="timeout", service="external_api")],
    ),
    PlannedTrace(
        "timeout elsewhere",
        [CHAIN, span("call", "TOOL", "ERROR", error_type="timeout", service="postgres")],
    ),
    PlannedTrace("service is well", [CHAIN, span("call", "TOOL", service="external_api")]),
    # Combined filters.
    PlannedTrace(
        "complex and failed", [FAILED_CHAIN, *llm(3)], ms=5001, tags={"query_type": "complex"}
    ),
    PlannedTrace("complex", [CHAIN, *llm(3)], ms=5002, tags={"query_type": "complex"}),
    PlannedTrace("simple", [CHAIN, *llm(3)], ms=5002, tags={"query_type": "simple"}),
    PlannedTrace("complex but quick", [CHAIN, *llm(3)], tags={"query_type": "complex"}),
    PlannedTrace(
        "six embeddings",
        [CHAIN, *[span("vectorise", "EMBEDDING")] * 6],
        tags={"resource_alert": "high_usage"},
    ),
    PlannedTrace(
        "four named embed",
        [CHAIN, *[span("embed_chunk", "TOOL")] * 4],
        tags={"resource_alert": "high_usage"},
    ),
    PlannedTrace("five embeddings", [CHAIN, *[span("vectorise", "EMBEDDING")] * 5]),
    PlannedTrace("embeddings without alert", [CHAIN, *[span("vectorise", "EMBEDDING")] * 6]),
    PlannedTrace("alert for another reason", [CHAIN], tags={"resource_alert": "high_usage"}),
)


@dataclass(frozen=True)
class World:
    """The logged plan: which id each planned trace got."""

    experiment_id: str
    now_ms: int
    ids: Mapping[str, str]
    started_ms: Mapping[str, int]


def log(experiment_name: str) -> World:
    """Log the plan with MLflow's client to the current tracking URI."""
    experiment_id = mlflow.set_experiment(experiment_name).experiment_id
    now_ms = int(time.time() * 1000)
    # A millisecond apart each, so that the order by time is known.
    started = {
        trace.key: now_ms - int(trace.age_h * HOUR_MS) - number for number, trace in enumerate(PLAN)
    }
    ids = {}
    for trace in PLAN:
        root = mlflow.start_span_no_context(
            trace.spans[0].name,
            span_type=trace.spans[0].type,
            inputs={"key": trace.key},
            attributes=dict(trace.spans[0].attributes),
            tags=dict(trace.tags),
            experiment_id=experiment_id,
            start_time_ns=started[trace.key] * MS,
        )
        for number, planned in enumerate(trace.spans[1:]):
            begun = (started[trace.key] + number) * MS
            child = mlflow.start_span_no_context(
                planned.name,
                span_type=planned.type,
                parent_span=root,
                attributes=dict(planned.attributes),
                start_time_ns=begun,
            )
            child.end(status=planned.status, end_time_ns=begun + MS)
        root.end(status=trace.status, end_time_ns=(started[trace.key] + trace.ms) * MS)
        ids[trace.key] = root.trace_id
    mlflow.flush_trace_async_logging()

    def assess(trace: PlannedTrace) -> None:
        for name, value in trace.feedback.items():
            mlflow.log_feedback(trace_id=ids[trace.key], name=name, value=value)
        for name, value in trace.expectations.items():
            mlflow.log_expectation(trace_id=ids[trace.key], name=name, value=value)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(assess, PLAN))
    return World(experiment_id, now_ms, ids, started)
