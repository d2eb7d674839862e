"""The demo's questions: filters, and what they mean in terms of what was logged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .applications import SLOW_MS
from .workload import Logged

Holds = Callable[[Logged], bool]


@dataclass(frozen=True)
class SearchQuestion:
    """A search, and which traces it has to find."""

    title: str
    filter: str
    order_by: tuple[str, ...]
    holds: Holds


@dataclass(frozen=True)
class CorrelationQuestion:
    """A planted cause and its outcome, and for which traces the two filters hold.

    ``fact`` is the cause as discovery has to word it, which is told the outcome alone.
    ``kinds`` of facts are looked at; None is all.
    """

    planted: str
    filter1: str
    filter2: str
    holds1: Holds
    holds2: Holds
    fact: str
    kinds: tuple[str, ...] | None = None


def _low(logged: Logged) -> bool:
    return logged.user_rating is not None and logged.user_rating <= 2


SEARCHES = (
    SearchQuestion(
        "Weather service timed out in production",
        "span.attributes['service'] = 'weather_api' AND span.attributes['error_type'] = 'timeout'"
        " AND tags.environment = 'production'",
        ("timestamp_ms DESC",),
        lambda t: "weather timeout" in t.facts and t.tags["environment"] == "production",
    ),
    SearchQuestion(
        "Failed, or slow with llama-3-70b: slowest first",
        "status = 'ERROR' OR (any(span.attributes['model'] = 'llama-3-70b')"
        f" AND execution_time_ms > {SLOW_MS})",
        ("execution_time_ms DESC",),
        lambda t: (
            "failed" in t.facts or (t.model == "llama-3-70b" and t.execution_time_ms > SLOW_MS)
        ),
    ),
    SearchQuestion(
        "Hardly any document found, and a low rating",
        "any(span.type = 'RETRIEVER' AND span.attributes['documents_found'] < 3)"
        " AND feedback.user_rating <= 2",
        ("feedback.user_rating", "timestamp_ms DESC"),
        lambda t: "few documents" in t.facts and _low(t),
    ),
)

CORRELATIONS = (
    CorrelationQuestion(
        "since release v2.0.1 the weather service mostly times out",
        "tags.release = 'v2.0.1'",
        "span.attributes['service'] = 'weather_api' AND span.attributes['error_type'] = 'timeout'",
        lambda t: t.tags["release"] == "v2.0.1",
        lambda t: "weather timeout" in t.facts,
        fact="tags.release = 'v2.0.1'",
        # What a request comes with; its spans and how long they took describe the timeout.
        kinds=("tag", "metadata"),
    ),
    CorrelationQuestion(
        "model llama-3-70b is slow",
        "span.attributes['model'] = 'llama-3-70b'",
        f"execution_time_ms > {SLOW_MS}",
        lambda t: t.model == "llama-3-70b",
        lambda t: t.execution_time_ms > SLOW_MS,
        fact="span.attributes.model = 'llama-3-70b'",
    ),
    CorrelationQuestion(
        "few documents found lead to low ratings",
        "span.type = 'RETRIEVER' AND span.attributes['documents_found'] < 3",
        "feedback.user_rating <= 2",
        lambda t: "few documents" in t.facts,
        _low,
        fact="span.attributes.documents_found < 3",
        # Not what else the same user has said.
        kinds=("tag", "metadata", "span", "attribute", "number"),
    ),
)
