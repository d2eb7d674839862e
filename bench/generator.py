"""Seeded traces of three applications, as rows of MLflow's tables.

The rows look like what MLflow's client and server leave in PostgreSQL: a span's
``content`` is the JSON that ``log_spans`` stores, attribute values encoded once
more inside it, 1-2 KB a span; request metadata and tags are those of the real
client.  The same seed gives the same rows, whatever the number of workers,
because each chunk of traces has its own generator.

Three associations are planted, so that correlations have something to find:
release v2.0.1 and timeouts of ``external_api``, model ``llama-3-70b`` and slow
traces, retrievals with few documents and low ratings.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

CHUNK = 2_000
"""Traces per chunk; a chunk is the unit of determinism and of loading."""

PERIOD_END_MS = int(datetime(2026, 11, 1, tzinfo=timezone.utc).timestamp() * 1000)
PERIOD_DAYS = 30
ARTIFACTS = "mlflow-artifacts:"
DAY_MS = 86_400_000

TRACE_INFO = (
    "request_id, experiment_id, timestamp_ms, execution_time_ms, status, client_request_id, "
    "request_preview, response_preview, db_payload_generation, trace_name, session_id, "
    "input_tokens, output_tokens, total_tokens, input_cost, output_cost, total_cost"
)
SPANS = (
    "trace_id, experiment_id, span_id, parent_span_id, name, type, status, start_time_unix_nano, "
    "end_time_unix_nano, content, input_cost, output_cost, total_cost, model_name, model_provider"
)
TAGS = "key, value, request_id"
METADATA = "key, value, request_id"
ASSESSMENTS = (
    "assessment_id, trace_id, name, assessment_type, value, created_timestamp, "
    "last_updated_timestamp, source_type, source_id, rationale, valid, experiment_id, "
    "trace_timestamp_ms, aggregate_value, is_numeric_value"
)

Row = tuple[Any, ...]

# Model: provider, price of a million input and output tokens in USD, ms per output token.
MODELS = {
    "gpt-4o-mini": ("openai", 0.15, 0.6, 6.0),
    "gpt-4": ("openai", 30.0, 60.0, 22.0),
    "gpt-4o": ("openai", 2.5, 10.0, 9.0),
    "claude-3-5-sonnet": ("anthropic", 3.0, 15.0, 11.0),
    "claude-3-haiku": ("anthropic", 0.25, 1.25, 5.0),
    "gpt-3.5-turbo": ("openai", 0.5, 1.5, 5.0),
    "llama-3-70b": ("local", 0.0, 0.0, 55.0),
    "mistral-large": ("mistral", 2.0, 6.0, 12.0),
}
MODEL_WEIGHTS = (30, 16, 16, 12, 9, 7, 6, 4)
RELEASES = ("v1.8.0", "v1.9.0", "v1.9.1", "v1.10.0", "v2.0.0", "v2.0.1", "v2.1.0", "v2.1.1")
RELEASE_WEIGHTS = (4, 6, 9, 12, 18, 14, 20, 17)
ENVIRONMENTS = ("production", "staging", "development")
TIERS = ("free", "pro", "enterprise")
REGIONS = ("eu-west-1", "us-east-1", "us-west-2", "ap-south-1", "sa-east-1")
LANGUAGES = ("en", "de", "fr", "es", "ja", "pt")
# Tool: the service behind it and its usual duration in ms.
TOOLS = {
    "search_orders": ("orders", 120),
    "query_database": ("postgres", 90),
    "database_write": ("postgres", 60),
    "fetch_exchange_rate": ("external_api", 350),
    "weather_lookup": ("external_api", 420),
    "send_email": ("smtp", 200),
    "calculator": ("local", 4),
    "web_search": ("search", 650),
    "read_file": ("files", 30),
    "create_ticket": ("tickets", 180),
    "advanced_analysis": ("analytics", 1500),
    "translate": ("translation", 260),
}
TOOL_WEIGHTS = (18, 16, 6, 9, 8, 6, 10, 10, 6, 5, 2, 4)
ERRORS = ("timeout", "rate_limit", "validation_failed", "connection_refused", "bad_response")
ERROR_WEIGHTS = (30, 25, 20, 10, 15)
TEMPLATES = (
    "short_answer",
    "step_by_step",
    "complex_reasoning",
    "summarize",
    "extract_json",
    "friendly_tone",
)
INDEXES = ("documentation", "tickets", "wiki", "contracts")

_WORDS = """
    account agent answer api order payment model customer latency shipping invoice refund policy
    token context document search region release deploy error timeout retry cache request
    response vector index prompt trace span server client database query table column message
    contract ticket delay warranty discount delivery address product catalogue price quantity
    stock supplier warehouse return exchange season summary paragraph translation the a of to
    and in for with on is are was will can should please explain compare list show why how when
    which what größer café naïve 日本 résumé
"""


def _sentences() -> list[str]:
    rng = random.Random(7)
    made = []
    stock = _WORDS.split()
    for _ in range(4_000):
        words = rng.choices(stock, k=rng.randint(6, 18))
        made.append(" ".join(words).capitalize() + rng.choice((".", ".", "?", "!")))
    return made


SENTENCES = _sentences()


def text(rng: random.Random, low: int, high: int) -> str:
    """A few sentences from a fixed stock of them."""
    return " ".join(rng.choices(SENTENCES, k=rng.randint(low, high)))


def encoded(value: Any) -> str:
    """An attribute's value as it stands in the content: JSON within a JSON string."""
    return json.dumps(json.dumps(value, ensure_ascii=False), ensure_ascii=False)


@lru_cache(maxsize=100_000)
def attribute(key: str, value: str | int | float | bool) -> str:
    """One member of the content's ``attributes``, for values that repeat."""
    return f'"{key}": {encoded(value)}'


def _base64(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()


@dataclass
class Chunk:
    """Rows per table."""

    trace_info: list[Row] = field(default_factory=list)
    spans: list[Row] = field(default_factory=list)
    trace_tags: list[Row] = field(default_factory=list)
    trace_request_metadata: list[Row] = field(default_factory=list)
    assessments: list[Row] = field(default_factory=list)

    def tables(self) -> Sequence[tuple[str, str, list[Row]]]:
        """(table, columns, rows), parents first."""
        return (
            ("trace_info", TRACE_INFO, self.trace_info),
            ("spans", SPANS, self.spans),
            ("trace_tags", TAGS, self.trace_tags),
            ("trace_request_metadata", METADATA, self.trace_request_metadata),
            ("assessments", ASSESSMENTS, self.assessments),
        )


class _Trace:
    """A trace being made up: the clock, the spans so far, what they add up to."""

    def __init__(self, rng: random.Random, experiment_id: int, start_ms: int) -> None:
        self.rng = rng
        self.experiment_id = experiment_id
        self.digits = f"{rng.getrandbits(128):032x}"
        self.id = f"tr-{self.digits}"
        self.start_ns = start_ms * 1_000_000 + rng.randrange(1_000_000)
        self.now_ns = self.start_ns + 300_000
        self.root = f"{rng.getrandbits(64):016x}"
        self.trace64 = _base64(self.digits)
        self.root64 = _base64(self.root)
        self.request_id_attribute = f'"mlflow.traceRequestId": {encoded(self.id)}'
        self.spans: list[Row] = []
        self.tokens = [0, 0]
        self.cost = [0.0, 0.0]
        self.failed = False
        self.few_documents = False

    def span(
        self,
        name: str,
        kind: str,
        ms: float,
        inputs: Any,
        outputs: Any,
        attributes: list[str],
        *,
        error: str | None = None,
        usage: tuple[str, int, int] | None = None,
        root: bool = False,
    ) -> None:
        """Append a span that starts where the last one ended and takes ``ms``."""
        if root:
            start, end, digits, parent = self.start_ns, self.now_ns, self.root, None
        else:
            start = self.now_ns
            end = start + int(ms * 1_000_000)
            self.now_ns = end + self.rng.randrange(20_000, 900_000)
            digits, parent = f"{self.rng.getrandbits(64):016x}", self.root
        parts = [f'"mlflow.spanStartTimeNs": "{start}"']
        if root:
            parts.append(attribute("mlflow.experimentId", str(self.experiment_id)))
        parts.append(self.request_id_attribute)
        parts.append(attribute("mlflow.spanType", kind))
        parts.append(f'"mlflow.spanInputs": {encoded(inputs)}')
        parts.extend(attributes)
        costs: tuple[float | None, float | None, float | None] = (None, None, None)
        model = provider = None
        if usage:
            model, used, made = usage
            provider, price_in, price_out, _ = MODELS[model]
            parts.append(attribute("mlflow.llm.model", model))
            parts.append(attribute("mlflow.llm.provider", provider))
            tokens = {"input_tokens": used, "output_tokens": made, "total_tokens": used + made}
            parts.append(f'"mlflow.chat.tokenUsage": {encoded(tokens)}')
            self.tokens[0] += used
            self.tokens[1] += made
            if price_in:
                paid = (used * price_in / 1e6, made * price_out / 1e6)
                costs = (*paid, sum(paid))
                named = {"input_cost": paid[0], "output_cost": paid[1], "total_cost": costs[2]}
                parts.append(f'"mlflow.llm.cost": {encoded(named)}')
                self.cost[0] += paid[0]
                self.cost[1] += paid[1]
        events, message = "", ""
        if error:
            self.failed = True
            message = f"{name}: {error.replace('_', ' ')}"
            parts.append(attribute("error_type", error))
            parts.append(f'"error_message": {encoded(message)}')
            events = (
                f'{{"name": "exception", "time_unix_nano": {end}, "attributes": '
                f'{{"exception.message": "{message}", "exception.type": "RuntimeError", '
                f'"exception.stacktrace": "Traceback (most recent call last):\\n  File '
                f'\\"/app/service.py\\", line 88, in {name}\\nRuntimeError: {message}"}}}}'
            )
        else:
            parts.append(f'"mlflow.spanOutputs": {encoded(outputs)}')
        parts.append(attribute("mlflow.spanLogLevel", 40 if error else 20))
        status = "ERROR" if error else "OK"
        parent64 = "null" if root else f'"{self.root64}"'
        span64 = self.root64 if root else _base64(digits)
        content = (
            f'{{"trace_id": "{self.trace64}", "span_id": "{span64}", '
            f'"parent_span_id": {parent64}, "name": "{name}", "start_time_unix_nano": {start}, '
            f'"end_time_unix_nano": {end}, "events": [{events}], "status": {{"code": '
            f'"STATUS_CODE_{status}", "message": "{message}"}}, "attributes": '
            f'{{{", ".join(parts)}}}, "links": []}}'
        )
        self.spans.append(
            (
                *(self.id, self.experiment_id, digits, parent, name, kind, status),
                *(start, end, content, *costs, model, provider),
            )
        )

    def llm(self, name: str, model: str, prompt: str, answer: str, *, kind: str = "LLM") -> None:
        """A model call; its duration follows from the model and the tokens."""
        rng = self.rng
        used = len(prompt) // 4 + rng.randint(40, 900)
        made = len(answer) // 4 + rng.randint(5, 120)
        error = None
        if rng.random() < 0.012:
            error = "rate_limit" if rng.random() < 0.7 else "timeout"
        self.span(
            name,
            kind,
            80 + made * MODELS[model][3] * rng.uniform(0.6, 1.6),
            {"messages": [{"role": "user", "content": prompt}]},
            {"choices": [{"message": {"role": "assistant", "content": answer}}]},
            [
                attribute("model", model),
                attribute("temperature", rng.choice((0.0, 0.2, 0.3, 0.7, 1.0))),
                attribute("max_tokens", rng.choice((256, 500, 1024, 4096))),
                attribute("prompt_template", rng.choice(TEMPLATES)),
            ],
            error=error,
            usage=(model, used, made),
        )


def _chat(trace: _Trace, model: str, question: str, answer: str) -> tuple[str, str]:
    rng = trace.rng
    if rng.random() < 0.7:
        hit = rng.random() < 0.3
        trace.span(
            "load_history",
            "MEMORY",
            rng.uniform(2, 30),
            {"limit": 20},
            {"messages": rng.randint(0, 20)},
            [attribute("cache_hit", hit)],
        )
    trace.llm("generate_response", model, question, answer, kind="CHAT_MODEL")
    while trace.failed and len(trace.spans) < 5 and rng.random() < 0.8:
        trace.failed = False
        trace.llm("generate_response_retry", model, question, answer, kind="CHAT_MODEL")
    if rng.random() < 0.5:
        trace.span(
            "moderate",
            "GUARDRAIL",
            rng.uniform(5, 60),
            {"text": answer[:120]},
            {"flagged": rng.random() < 0.02},
            [attribute("policy", "default")],
        )
    return "chat_completion", "CHAIN"


def _retrieval(trace: _Trace, model: str, question: str, answer: str) -> tuple[str, str]:
    rng = trace.rng
    for _ in range(rng.choice((1, 1, 1, 2, 6))):
        trace.span(
            "embed_query",
            "EMBEDDING",
            rng.uniform(10, 60),
            {"text": question},
            {"dimensions": 1536},
            [attribute("model", "text-embedding-3-small")],
        )
    for name in ("vector_search", "keyword_search")[: rng.choice((1, 1, 2))]:
        found = rng.choice((0, 1, 2, 4, 5, 5, 5, 8, 10))
        trace.few_documents = trace.few_documents or found < 3
        error = rng.choices(ERRORS, ERROR_WEIGHTS)[0] if rng.random() < 0.01 else None
        trace.span(
            name,
            "RETRIEVER",
            rng.lognormvariate(4.2, 0.7),
            {"query": question, "top_k": 10},
            {"documents": [{"id": rng.randrange(90_000), "score": 0.8} for _ in range(found)]},
            [
                attribute("index", rng.choice(INDEXES)),
                attribute("top_k", 10),
                attribute("documents_found", found),
                attribute("similarity_threshold", 0.7),
            ],
            error=error,
        )
    if rng.random() < 0.4:
        trace.llm("summarize_context", "gpt-3.5-turbo", text(rng, 2, 6), text(rng, 1, 3))
    trace.llm("generate_answer", model, question + " " + text(rng, 2, 8), answer)
    if rng.random() < 0.3:
        trace.span("parse_answer", "PARSER", rng.uniform(0.1, 3), {"format": "json"}, {}, [])
    return "rag_pipeline", "CHAIN"


def _agent(
    trace: _Trace, model: str, question: str, answer: str, release: str, *, long: bool
) -> tuple[str, str]:
    rng = trace.rng
    steps = rng.randint(28, 41) if long else rng.choice((1, 2, 3, 3, 4, 5, 7, 12))
    for step in range(steps):
        context = " " + text(rng, 15, 50) if long else ""
        trace.llm("plan_step", model, question + context, text(rng, 1, 2))
        if rng.random() < 0.12:
            trace.span(
                "reflect",
                "CHAIN",
                rng.uniform(1, 9),
                {"step": step},
                {"continue": True},
                [attribute("step", step)],
            )
        tool = rng.choices(tuple(TOOLS), TOOL_WEIGHTS)[0]
        service, usual = TOOLS[tool]
        error = None
        ms = usual * rng.lognormvariate(0, 0.5)
        if service == "external_api" and rng.random() < (0.45 if release == "v2.0.1" else 0.02):
            error, ms = "timeout", 10_000
        elif rng.random() < 0.015:
            error = rng.choices(ERRORS, ERROR_WEIGHTS)[0]
        attempts = 1 + (rng.choice((0, 1, 2)) if error else 0)
        for attempt in range(attempts):
            trace.span(
                tool if attempt == 0 else f"{tool}_retry",
                "TOOL",
                ms,
                {"arguments": {"query": rng.choice(SENTENCES), "order": rng.randrange(1_000_000)}},
                {"rows": rng.randint(0, 50), "text": rng.choice(SENTENCES)},
                [
                    attribute("service", service),
                    attribute("attempt", attempt + 1),
                    attribute("cache_hit", rng.random() < 0.2),
                    f'"order_id": {encoded(f"ord-{rng.getrandbits(40):010x}")}',
                ],
                error=error,
            )
    trace.llm("write_answer", model, question, answer)
    return "support_agent", "AGENT"


def _assess(chunk: Chunk, trace: _Trace, created: int, slow: bool) -> None:
    rng = trace.rng

    def add(name: str, kind: str, value: Any, source: str, by: str, why: str | None = None) -> None:
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        aggregate = float(value) if isinstance(value, (int, float)) else None
        chunk.assessments.append(
            (
                *(f"a-{rng.getrandbits(128):032x}", trace.id, name, kind, json.dumps(value)),
                *(created, created, source, by, why, True, trace.experiment_id),
                *(trace.start_ns // 1_000_000, aggregate, numeric),
            )
        )

    if rng.random() < 0.25:
        bad = trace.failed or slow or (trace.few_documents and rng.random() < 0.75)
        rating = rng.choice((1, 1, 2, 3)) if bad else rng.choice((3, 4, 4, 5, 5, 5))
        user = f"user-{rng.randrange(5_000)}"
        add("user_rating", "feedback", rating, "HUMAN", user)
        if rng.random() < 0.5:
            add("helpful", "feedback", rating >= 4, "HUMAN", user, rng.choice(SENTENCES))
    if rng.random() < 0.3:
        quality = min(1.0, max(0.0, rng.gauss(0.5 if trace.failed else 0.8, 0.15)))
        add("quality", "feedback", round(quality, 3), "LLM_JUDGE", "gpt-4o", text(rng, 1, 2))
        grade = "yes" if quality > 0.6 else "no"
        add("relevance", "feedback", grade, "LLM_JUDGE", "gpt-4o", rng.choice(SENTENCES))
    if rng.random() < 0.05:
        add("expected_answer", "expectation", text(rng, 1, 2), "HUMAN", "reviewer@example.com")


def chunk_rows(
    seed: int, number: int, size: int, experiment_id: int, *, agents: bool = False
) -> Chunk:
    """The rows of chunk ``number``: ``size`` traces, the same for the same arguments.

    ``agents``: every trace is a long run of the agent, 80 spans of 2.4 KB on average.
    """
    rng = random.Random(f"{seed}/{number}")
    chunk = Chunk()
    sessions = [f"session-{number}-{n}" for n in range(max(1, size // 6))]
    for _ in range(size):
        # Twice as many requests at midday as at midnight.
        day = rng.randrange(PERIOD_DAYS)
        of_day = int(rng.triangular(0, DAY_MS, DAY_MS * 0.55))
        start_ms = PERIOD_END_MS - (day + 1) * DAY_MS + of_day
        trace = _Trace(rng, experiment_id, start_ms)
        model = rng.choices(tuple(MODELS), MODEL_WEIGHTS)[0]
        release = rng.choices(RELEASES, RELEASE_WEIGHTS)[0]
        environment = rng.choices(ENVIRONMENTS, (75, 15, 10))[0]
        question, answer = text(rng, 1, 4), text(rng, 1, 6)
        application = "agent"
        if not agents:
            application = rng.choices(("chat", "retrieval", "agent"), (38, 30, 32))[0]
        if application == "chat":
            name, kind = _chat(trace, model, question, answer)
        elif application == "retrieval":
            name, kind = _retrieval(trace, model, question, answer)
        else:
            name, kind = _agent(trace, model, question, answer, release, long=agents)
        error = "unhandled" if trace.failed and rng.random() < 0.6 else None
        trace.span(
            name,
            kind,
            0,
            {"query": question},
            {"answer": answer},
            [attribute("release", release)],
            error=error,
            root=True,
        )
        ms = (trace.now_ns - trace.start_ns) // 1_000_000
        session = rng.choice(sessions) if rng.random() < 0.7 else None
        user = f"user-{int(rng.paretovariate(0.6)) % 5_000}"
        paid: Sequence[float | None] = (None, None, None)
        if any(trace.cost):
            paid = (*trace.cost, sum(trace.cost))
        inputs = json.dumps({"query": question}, ensure_ascii=False)
        outputs = json.dumps({"answer": answer}, ensure_ascii=False)
        client_request = f"req-{rng.getrandbits(64):016x}" if rng.random() < 0.3 else None
        chunk.trace_info.append(
            (
                *(trace.id, experiment_id, trace.start_ns // 1_000_000, ms),
                *("ERROR" if error else "OK", client_request, inputs[:1000]),
                *(None if error else outputs[:1000], len(trace.spans), name, session),
                *(*trace.tokens, sum(trace.tokens), *paid),
            )
        )
        chunk.spans.extend(trace.spans)
        sizes = sorted(len(row[9]) for row in trace.spans)
        stats = {
            "total_size_bytes": sum(sizes),
            "num_spans": len(sizes),
            "max": sizes[-1],
            "p25": sizes[len(sizes) // 4],
            "p50": sizes[len(sizes) // 2],
            "p75": sizes[len(sizes) * 3 // 4],
        }
        for key, value in (
            ("mlflow.source.git.branch", "main"),
            ("mlflow.source.git.commit", f"{hash_of(release):040x}"),
            ("mlflow.source.git.repoURL", "https://git.example.com/assistant.git"),
            ("mlflow.source.name", f"/app/{application}.py"),
            ("mlflow.source.type", "LOCAL"),
            ("mlflow.trace.infoFinalized", "true"),
            ("mlflow.trace.sizeBytes", str(sum(sizes))),
            ("mlflow.trace.sizeStats", json.dumps(stats)),
            ("mlflow.trace.user", user),
            ("mlflow.traceInputs", inputs[:250]),
            ("mlflow.traceOutputs", "" if error else outputs[:250]),
            ("mlflow.trace_schema.version", "3"),
            ("mlflow.user", "app"),
        ):
            chunk.trace_request_metadata.append((key, value, trace.id))
        tags = {
            "mlflow.artifactLocation": f"{ARTIFACTS}/{experiment_id}/traces/{trace.id}/artifacts",
            "mlflow.trace.spansLocation": "TRACKING_STORE",
            "application": application,
            "environment": environment,
            "version": release,
            "customer_tier": rng.choices(TIERS, (60, 30, 10))[0],
            "region": rng.choices(REGIONS, (35, 30, 15, 12, 8))[0],
        }
        if rng.random() < 0.4:
            tags["language"] = rng.choices(LANGUAGES, (60, 15, 10, 8, 4, 3))[0]
        if rng.random() < 0.02:
            tags["resource_alert"] = "high_usage"
        chunk.trace_tags.extend((key, value, trace.id) for key, value in tags.items())
        _assess(chunk, trace, PERIOD_END_MS, slow=ms > 15_000)
    return chunk


@lru_cache(maxsize=64)
def hash_of(release: str) -> int:
    """A made-up commit id per release."""
    return random.Random(release).getrandbits(160)
