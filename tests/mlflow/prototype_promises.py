"""What the prototype's README promised, as tables: each search and each correlation.

Beside every filter, as the README words it, stands what it means in terms of the
plan of the traces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .prototype_world import PlannedTrace

Holds = Callable[[PlannedTrace], bool]

BY_TIME = ("trace.timestamp_ms DESC",)
BY_DURATION = ("trace.execution_time_ms DESC",)
DAY_H = 24

COMPLEX_SEARCH = """
    trace.status = 'OK' AND
    trace.execution_time_ms < 5000 AND
    count(span.type = 'LLM') > 1 AND
    feedback.quality > 0.7 AND
    tags.environment = 'production'
"""
PERFORMANCE_ISSUES = """
    (trace.execution_time_ms > 10000 OR count(span.status = 'ERROR') > 0) AND
    tags.environment = 'production'
"""
COMPLEX_QUERIES = """
    count(span.type = 'LLM') > 2 AND
    trace.execution_time_ms > 5000 AND
    tags.query_type = 'complex'
"""
RESOURCE_USAGE = """
    count(span.type = 'EMBEDDING') > 5 OR
    count(span.name LIKE '%embed%') > 3
"""


@dataclass(frozen=True)
class Search:
    """One search of the README; ``{yesterday}`` in the filter is a time in ms."""

    section: str
    filter: str | None
    holds: Holds
    order_by: tuple[str, ...] | None = None
    max_results: int = 100
    all_match: bool = False


@dataclass(frozen=True)
class Correlation:
    """One correlation of the README."""

    section: str
    filter1: str
    filter2: str
    holds1: Holds
    holds2: Holds


SEARCHES = (
    Search("Basic Search", None, lambda t: True, all_match=True),
    Search("Basic Search", "trace.status = 'OK'", lambda t: t.status == "OK", BY_TIME),
    Search("Trace Properties", "trace.execution_time_ms < 1000", lambda t: t.ms < 1000),
    Search("Trace Properties", "trace.status = 'ERROR'", lambda t: t.status == "ERROR"),
    Search("Trace Properties", "trace.timestamp_ms > {yesterday}", lambda t: t.age_h < DAY_H),
    Search("Span Characteristics", "span.type = 'LLM'", lambda t: t.count(type="LLM") > 0),
    Search(
        "Span Characteristics", "span.name LIKE '%database%'", lambda t: t.named("database") > 0
    ),
    Search("Span Characteristics", "span.status = 'ERROR'", lambda t: t.count(status="ERROR") > 0),
    Search(
        "Span Characteristics",
        "span.attributes['model'] = 'gpt-4'",
        lambda t: t.has("model", "gpt-4"),
    ),
    Search("Count Expressions", "count(span.type = 'LLM') > 3", lambda t: t.count(type="LLM") > 3),
    Search(
        "Count Expressions",
        "count(span.status = 'ERROR') > 0",
        lambda t: t.count(status="ERROR") > 0,
    ),
    Search(
        "Count Expressions",
        "count(span.type = 'CHAIN') >= 2 AND count(span.type = 'RETRIEVER') > 0",
        lambda t: t.count(type="CHAIN") >= 2 and t.count(type="RETRIEVER") > 0,
    ),
    Search(
        "Tags",
        "tags.environment = 'production'",
        lambda t: t.tags.get("environment") == "production",
    ),
    Search(
        "Tags",
        "tags.customer_tier = 'enterprise' AND tags.version = 'v2.0'",
        lambda t: t.tags.get("customer_tier") == "enterprise" and t.tags.get("version") == "v2.0",
    ),
    Search("Feedback", "feedback.quality > 0.8", lambda t: t.above("quality", 0.8)),
    Search(
        "Feedback", "feedback.user_rating >= 4", lambda t: t.above("user_rating", 4, or_equal=True)
    ),
    Search(
        "Feedback",
        "assessment.accuracy = 'correct' AND assessment.safety = 'safe'",
        lambda t: t.assessed("accuracy", "correct") and t.assessed("safety", "safe"),
    ),
    Search(
        "Complex Search Queries",
        COMPLEX_SEARCH,
        lambda t: (
            t.status == "OK"
            and t.ms < 5000
            and t.count(type="LLM") > 1
            and t.above("quality", 0.7)
            and t.tags.get("environment") == "production"
        ),
        BY_TIME,
        50,
    ),
    Search(
        "Complex Search Queries",
        PERFORMANCE_ISSUES,
        lambda t: (
            (t.ms > 10_000 or t.count(status="ERROR") > 0)
            and t.tags.get("environment") == "production"
        ),
        BY_DURATION,
    ),
    Search(
        "Analyzing Search Results",
        "span.type = 'LLM' AND trace.execution_time_ms > 3000",
        lambda t: t.count(type="LLM") > 0 and t.ms > 3000,
    ),
)

CORRELATIONS = (
    Correlation(
        "Span Type Filters",
        "span.type = 'LLM'",
        "span.type = 'TOOL'",
        lambda t: t.count(type="LLM") > 0,
        lambda t: t.count(type="TOOL") > 0,
    ),
    Correlation(
        "Span Type Filters",
        "span.type = 'RETRIEVER'",
        "span.type = 'CHAIN'",
        lambda t: t.count(type="RETRIEVER") > 0,
        lambda t: t.count(type="CHAIN") > 0,
    ),
    Correlation(
        "Span Attribute Filters",
        "span.attributes['model_name'] = 'gpt-4'",
        "span.attributes['response_quality'] = 'high'",
        lambda t: t.has("model_name", "gpt-4"),
        lambda t: t.has("response_quality", "high"),
    ),
    Correlation(
        "Span Attribute Filters",
        "span.attributes['prompt_template'] = 'complex_reasoning'",
        "span.status = 'ERROR'",
        lambda t: t.has("prompt_template", "complex_reasoning"),
        lambda t: t.count(status="ERROR") > 0,
    ),
    Correlation(
        "Count Expression Filters",
        "count(span.type = 'LLM') > 3",
        "trace.execution_time_ms > 5000",
        lambda t: t.count(type="LLM") > 3,
        lambda t: t.ms > 5000,
    ),
    Correlation(
        "Count Expression Filters",
        "count(span.status = 'ERROR') > 0",
        "count(span.name LIKE '%retry%') > 2",
        lambda t: t.count(status="ERROR") > 0,
        lambda t: t.named("retry") > 2,
    ),
    Correlation(
        "Count Expression Filters",
        "count(span.type = 'CHAIN') >= 5",
        "trace.status = 'OK'",
        lambda t: t.count(type="CHAIN") >= 5,
        lambda t: t.status == "OK",
    ),
    Correlation(
        "Count Expression Filters",
        "count(span.type = 'RETRIEVER') > 2",
        "count(span.type = 'TOOL') > 0",
        lambda t: t.count(type="RETRIEVER") > 2,
        lambda t: t.count(type="TOOL") > 0,
    ),
    Correlation(
        "Feedback and Assessment Filters",
        "feedback.quality >= 0.8",
        "span.attributes['model'] = 'claude-3'",
        lambda t: t.above("quality", 0.8, or_equal=True),
        lambda t: t.has("model", "claude-3"),
    ),
    Correlation(
        "Feedback and Assessment Filters",
        "feedback.user_rating > 4",
        "trace.execution_time_ms < 2000",
        lambda t: t.above("user_rating", 4),
        lambda t: t.ms < 2000,
    ),
    Correlation(
        "Feedback and Assessment Filters",
        "assessment.accuracy = 'correct'",
        "count(span.type = 'RETRIEVER') > 0",
        lambda t: t.assessed("accuracy", "correct"),
        lambda t: t.count(type="RETRIEVER") > 0,
    ),
    Correlation(
        "Latency and Performance Filters",
        "trace.execution_time_ms > 10000",
        "span.name LIKE '%database%'",
        lambda t: t.ms > 10_000,
        lambda t: t.named("database") > 0,
    ),
    Correlation(
        "Latency and Performance Filters",
        "trace.execution_time_ms < 500",
        "span.attributes['cache_hit'] = 'true'",
        lambda t: t.ms < 500,
        # A boolean and the text both: the filter language takes either.
        lambda t: t.has("cache_hit", True) or t.has("cache_hit", "true"),
    ),
    Correlation(
        "Latency and Performance Filters",
        "span.attributes['error_type'] = 'timeout'",
        "span.attributes['service'] = 'external_api'",
        lambda t: t.has("error_type", "timeout"),
        lambda t: t.has("service", "external_api"),
    ),
    Correlation(
        "Tag-based Filters",
        "tags.environment = 'production' AND trace.status = 'ERROR'",
        "tags.version = 'v2.0.1'",
        lambda t: t.tags.get("environment") == "production" and t.status == "ERROR",
        lambda t: t.tags.get("version") == "v2.0.1",
    ),
    Correlation(
        "Tag-based Filters",
        "tags.customer_tier = 'enterprise'",
        "count(span.name = 'advanced_analysis') > 0",
        lambda t: t.tags.get("customer_tier") == "enterprise",
        lambda t: t.count(name="advanced_analysis") > 0,
    ),
    Correlation(
        "Complex Combined Filters",
        COMPLEX_QUERIES,
        "trace.status = 'ERROR'",
        lambda t: t.count(type="LLM") > 2 and t.ms > 5000 and t.tags.get("query_type") == "complex",
        lambda t: t.status == "ERROR",
    ),
    Correlation(
        "Complex Combined Filters",
        RESOURCE_USAGE,
        "tags.resource_alert = 'high_usage'",
        lambda t: t.count(type="EMBEDDING") > 5 or t.named("embed") > 3,
        lambda t: t.tags.get("resource_alert") == "high_usage",
    ),
    Correlation(
        "Interpreting Results",
        "count(span.type = 'RETRIEVER') > 0",
        "feedback.accuracy = 'high'",
        lambda t: t.count(type="RETRIEVER") > 0,
        lambda t: t.feedback.get("accuracy") == "high",
    ),
    Correlation(
        "REST API Usage",
        "span.type = 'LLM'",
        "trace.execution_time_ms > 3000",
        lambda t: t.count(type="LLM") > 0,
        lambda t: t.ms > 3000,
    ),
)
