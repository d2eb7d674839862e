"""A seeded world of real traces, written through MLflow's own store.

Small vocabularies, so that random filters hit some traces and miss others, and
everything in it that a filter can see: links to runs and prompts, sessions,
assessments (overridden, session-scoped, of issues), token usage and cost,
archived spans, running traces, a deleted experiment.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy
from mlflow.entities import (
    AssessmentError,
    Expectation,
    Feedback,
    IssueReference,
    Span,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.entities.model_registry import PromptVersion
from mlflow.entities.span import create_mlflow_span
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan

START_MS = 1_700_000_000_000
STEP_MS = 20_000

NAMES = ["chat", "retrieval", "agent run", "Größe", "100%_sure", "a\\b"]
ENVIRONMENTS = ["production", "staging", "dev", ""]
VERSIONS = ["v1.0", "v2.0.1", "v2.0.2"]
SESSIONS = [f"session-{number}" for number in range(12)]
USERS = ["ann", "bob", "Zoë"]
SPAN_NAMES = ["plan", "query_database", "call_llm", "retry call", "summarize"]
SPAN_TYPES = ["LLM", "TOOL", "RETRIEVER", "CHAIN"]
# Each key with values that no other part of a span's JSON contains: so that
# MLflow, which searches the rest of the JSON too, finds what is meant.
ATTRIBUTES: dict[str, list[str]] = {
    "model": ["gpt-4", "gpt-4o-mini", "claude-3"],
    "service": ["external_api", "vector_store"],
    "nested.key": ["alpha", "beta"],
}
QUALITIES: list[Any] = [0.1, 0.5, 0.9, 1, 5, "good", "bad", "5", True, False, "true"]
WORDS = ["What is a span?", "Explain naïve Bayes", "日本語 text", "50%_off"]


@dataclass(eq=False)
class World:
    """What was made: ids for filters, and the first and last start of a trace."""

    experiments: list[str] = field(default_factory=list)
    deleted_experiment: str = ""
    runs: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    issues: list[str] = field(default_factory=list)
    trace_ids: list[str] = field(default_factory=list)
    first_ms: int = START_MS
    last_ms: int = START_MS


def build(store: SqlAlchemyStore, *, traces: int = 150, seed: int = 20) -> World:
    """Fill an empty MLflow database."""
    rng = random.Random(seed)
    world = World()
    world.experiments = [store.create_experiment(f"world-{n}") for n in range(3)]
    world.deleted_experiment = world.experiments[2]
    world.runs = [
        store.create_run(world.experiments[0], "ann", START_MS, [], f"run-{n}").info.run_id
        for n in range(3)
    ]
    prompts = [
        PromptVersion(f"prompt-{n % 2}", 1 + n // 2, "text")  # type: ignore[abstract]
        for n in range(4)
    ]
    world.prompts = [f"{prompt.name}/{prompt.version}" for prompt in prompts]
    world.issues = [
        store.create_issue(world.experiments[0], f"issue {n}", "described").issue_id
        for n in range(2)
    ]
    for number in range(traces):
        trace_id = f"tr-{rng.getrandbits(128):032x}"
        experiment = rng.choices(world.experiments, [5, 3, 1])[0]
        # Several traces share a millisecond, to see how ties are broken.
        timestamp_ms = START_MS + STEP_MS * (number - number % 3 if number % 7 < 3 else number)
        world.trace_ids.append(trace_id)
        world.last_ms = max(world.last_ms, timestamp_ms)
        _write_trace(store, rng, world, trace_id, experiment, timestamp_ms)
        if rng.random() < 0.3:
            store.link_prompts_to_trace(trace_id, rng.sample(prompts, rng.randint(1, 2)))
        _write_assessments(store, rng, world, trace_id)
    for run in world.runs:
        store.link_traces_to_run(rng.sample(world.trace_ids, 12), run)
    with store.ManagedSessionMaker(read_only=False) as session:
        # Archived: the content has moved to a file, the columns stay.
        session.execute(
            sqlalchemy.text("update spans set content = '' where trace_id = any(:ids)"),
            {"ids": rng.sample(world.trace_ids, 10)},
        )
    store.delete_experiment(world.deleted_experiment)
    return world


def _write_trace(
    store: SqlAlchemyStore,
    rng: random.Random,
    world: World,
    trace_id: str,
    experiment: str,
    timestamp_ms: int,
) -> None:
    metadata: dict[str, str] = {}
    tags: dict[str, str] = {}
    if rng.random() < 0.9:
        tags["mlflow.traceName"] = rng.choice(NAMES)
    if rng.random() < 0.7:
        tags["environment"] = rng.choice(ENVIRONMENTS)
    if rng.random() < 0.5:
        tags["release version"] = rng.choice(VERSIONS)
    if rng.random() < 0.3:
        tags["a.dotted.key"] = str(rng.randint(1, 20))
    if rng.random() < 0.6:
        metadata["mlflow.trace.session"] = rng.choice(SESSIONS)
    if rng.random() < 0.6:
        metadata["mlflow.trace.user"] = rng.choice(USERS)
    if rng.random() < 0.3:
        metadata["mlflow.sourceRun"] = rng.choice(world.runs)
    if rng.random() < 0.3:
        metadata["region"] = rng.choice(["eu", "us"])
    if rng.random() < 0.5:
        usage = {"input_tokens": rng.randint(1, 50), "output_tokens": rng.randint(1, 50)}
        usage["total_tokens"] = sum(usage.values())
        metadata["mlflow.trace.tokenUsage"] = json.dumps(usage)
    if rng.random() < 0.3:
        cost = {"input_cost": 0.25, "output_cost": rng.randint(1, 4) / 4}
        metadata["mlflow.trace.cost"] = json.dumps({**cost, "total_cost": sum(cost.values())})
    store.start_trace(
        TraceInfo(
            trace_id=trace_id,
            trace_location=TraceLocation.from_experiment_id(experiment),
            request_time=timestamp_ms,
            execution_duration=rng.choice([None, 0, 120, 4000, 4000, 12_500]),
            state=rng.choices([TraceState.OK, TraceState.ERROR, TraceState.IN_PROGRESS], [6, 3, 1])[
                0
            ],
            client_request_id=rng.choice([None, None, f"client-{rng.randint(1, 9)}"]),
            request_preview=rng.choice([None, rng.choice(WORDS)]),
            response_preview=rng.choice([None, "an answer"]),
            trace_metadata=metadata,
            tags=tags,
        )
    )
    spans = [
        _random_span(rng, trace_id, number, timestamp_ms)
        for number in range(rng.choice([0, 1, 2, 3, 5]))
    ]
    if spans:
        store.log_spans(experiment, spans)


def _random_span(rng: random.Random, trace_id: str, number: int, timestamp_ms: int) -> Span:
    attributes: dict[str, Any] = {}
    for key, values in ATTRIBUTES.items():
        if rng.random() < 0.5:
            attributes[key] = rng.choice(values)
    if rng.random() < 0.4:
        attributes["temperature"] = rng.choice([0, 0.7, 1, "0.7"])
    if rng.random() < 0.5:
        attributes["mlflow.spanInputs"] = {"question": rng.choice(WORDS)}
    return span(
        trace_id,
        number,
        timestamp_ms,
        duration_ms=rng.choice([None, 1, 5, 9]),
        name=rng.choice(SPAN_NAMES),
        type=rng.choice(SPAN_TYPES),
        status=rng.choice(list(otel.StatusCode)),
        attributes=attributes,
    )


def span(
    trace_id: str,
    number: int,
    start_ms: int,
    *,
    duration_ms: int | None = 1,
    name: str = "plan",
    type: str = "LLM",
    status: otel.StatusCode = otel.StatusCode.OK,
    attributes: Mapping[str, Any] | None = None,
) -> Span:
    """A span below some root that is not there, so that the trace keeps its state."""
    start_ns = start_ms * 1_000_000 + number * 1_000
    otel_trace_id = int(trace_id.removeprefix("tr-"), 16)
    everything = {"mlflow.traceRequestId": trace_id, "mlflow.spanType": type, **(attributes or {})}

    def context(span_number: int) -> otel.SpanContext:
        return otel.SpanContext(otel_trace_id, span_number + 1, is_remote=False)

    return create_mlflow_span(
        ReadableSpan(
            name=name,
            context=context(number),
            parent=context(100),
            attributes={k: json.dumps(v, ensure_ascii=False) for k, v in everything.items()},
            start_time=start_ns,
            end_time=None if duration_ms is None else start_ns + duration_ms * 1_000_000,
            status=otel.Status(status),
        ),
        trace_id,
    )


def _write_assessments(
    store: SqlAlchemyStore, rng: random.Random, world: World, trace_id: str
) -> None:
    if rng.random() < 0.6:
        first = store.create_assessment(
            Feedback(trace_id=trace_id, name="quality", value=rng.choice(QUALITIES))
        )
        if rng.random() < 0.3:
            store.create_assessment(
                Feedback(
                    trace_id=trace_id,
                    name="quality",
                    value=rng.choice(QUALITIES),
                    overrides=first.assessment_id,
                )
            )
    if rng.random() < 0.2:
        store.create_assessment(
            Feedback(trace_id=trace_id, name="quality", value=rng.choice(QUALITIES))
        )
    if rng.random() < 0.1:
        store.create_assessment(
            Feedback(trace_id=trace_id, name="quality", error=AssessmentError("E", "failed"))
        )
    if rng.random() < 0.3:
        store.create_assessment(
            Expectation(
                trace_id=trace_id, name="answer", value=rng.choice(["yes", "no", 3, ["a", "b"]])
            )
        )
    if rng.random() < 0.1:
        # Counts for every trace of the session that the trace belongs to.
        some: list[str | int] = ["good", 4]
        store.create_assessment(
            Feedback(
                trace_id=trace_id,
                name="whole_session",
                value=rng.choice(some),
                metadata={"mlflow.trace.session": "any"},
            )
        )
    if rng.random() < 0.2:
        store.create_assessment(
            IssueReference(rng.choice(world.issues), "an issue", trace_id=trace_id)
        )
