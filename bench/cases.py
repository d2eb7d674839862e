"""What is compared: searches and correlations that stock MLflow can answer.

Stock compares a span attribute only by its text within the whole span; where our
own filter is written differently, both stand here, and their counts must be the
same before anything is timed.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.generator import DAY_MS, PERIOD_END_MS

WEEK = (PERIOD_END_MS - 7 * DAY_MS, PERIOD_END_MS)
HOUR = (PERIOD_END_MS - 3 * DAY_MS, PERIOD_END_MS - 3 * DAY_MS + 3_600_000)


def window(bounds: tuple[int, int]) -> str:
    """A filter for traces that began between two times."""
    return f"timestamp >= {bounds[0]} AND timestamp < {bounds[1]}"


@dataclass(frozen=True)
class Search:
    """A page of a search; ``ours`` is the filter for us where it differs.

    ``page`` counts from 0: pages before it are fetched, and not timed.
    """

    name: str
    filter: str
    ours: str | None = None
    order_by: tuple[str, ...] = ()
    max_results: int = 100
    page: int = 0


@dataclass(frozen=True)
class Correlation:
    """Two filters and what they are tested on."""

    name: str
    filter1: str
    filter2: str
    base: str | None = None
    ours1: str | None = None
    ours2: str | None = None


SEARCHES = (
    Search("everything", ""),
    Search("everything, page of 1,000", "", max_results=1000),
    Search("everything, 1,000 a page, 20th page", "", max_results=1000, page=19),
    Search("tag, common (75 %)", "tags.environment = 'production'"),
    Search("tag, rare (2 %)", "tags.resource_alert = 'high_usage'"),
    Search("tag, no such value", "tags.environment = 'nowhere'"),
    Search("tag missing", "tags.language IS NULL"),
    Search("tag !=", "tags.customer_tier != 'free'"),
    Search("tag LIKE", "tags.version LIKE 'v2.%'"),
    Search("metadata: one user", "metadata.mlflow.trace.user = 'user-1234'"),
    Search("metadata: one session", "metadata.mlflow.trace.session = 'session-3-17'"),
    Search("trace status", "status = 'ERROR'"),
    Search("trace name", "name = 'rag_pipeline'"),
    Search("execution time", "execution_time > 60000"),
    Search("span type", "span.type = 'RETRIEVER'"),
    Search("span name", "span.name = 'advanced_analysis'"),
    Search("span name LIKE", "span.name LIKE '%database%'"),
    Search("span type and status", "span.type = 'TOOL' AND span.status = 'ERROR'"),
    Search("span type and status, rare", "span.type = 'RETRIEVER' AND span.status = 'ERROR'"),
    Search("attribute LIKE, common", "span.attributes.model LIKE '%gpt-4%'"),
    Search(
        "attribute LIKE, rare",
        "span.attributes.error_type LIKE '%connection_refused%'",
    ),
    Search(
        "attribute =, nearest form in stock",
        "span.attributes.model RLIKE '^llama-3-70b$'",
        "span.attributes['model'] = 'llama-3-70b'",
    ),
    Search(
        "attribute =, no such value",
        "span.attributes.model RLIKE '^gpt-7$'",
        "span.attributes['model'] = 'gpt-7'",
    ),
    Search(
        "two attributes of one span",
        "span.attributes.error_type LIKE '%timeout%' AND span.attributes.service LIKE '%external%'",
        "span.attributes.error_type = 'timeout' AND span.attributes.service = 'external_api'",
    ),
    Search("text LIKE, common", "trace.text LIKE '%invoice%'"),
    Search("text LIKE, found nowhere", "trace.text LIKE '%ord-0123456789%'"),
    Search("text ILIKE", "trace.text ILIKE '%RÉSUMÉ%'"),
    Search("feedback number", "feedback.user_rating < 2"),
    Search("feedback text", "feedback.relevance = 'no'"),
    Search("feedback missing", "feedback.quality IS NULL"),
    Search("a week", window(WEEK)),
    Search("an hour and a span", f"{window(HOUR)} AND span.type = 'TOOL'"),
    Search(
        "several kinds at once",
        "tags.version = 'v2.0.1' AND status = 'ERROR' AND span.name = 'weather_lookup'"
        " AND feedback.user_rating <= 3",
    ),
    Search("order by duration", "status = 'OK'", order_by=("execution_time DESC",)),
    Search("order by tag", "status = 'OK'", order_by=("tag.region ASC", "timestamp DESC")),
    Search(
        "deep page: tag, 500 a page, 20th page",
        "tags.environment = 'production'",
        max_results=500,
        page=19,
    ),
    Search(
        "deep page: span, 500 a page, 20th page", "span.type = 'TOOL'", max_results=500, page=19
    ),
)

CORRELATIONS = (
    Correlation("tag / status", "tags.version = 'v2.0.1'", "status = 'ERROR'"),
    Correlation("tag / tag", "tags.environment = 'production'", "tags.region LIKE 'eu-%'"),
    Correlation("metadata / status", "metadata.mlflow.source.type = 'LOCAL'", "status = 'OK'"),
    Correlation("span type / span type", "span.type = 'LLM'", "span.type = 'TOOL'"),
    Correlation("span type / span status", "span.type = 'RETRIEVER'", "span.status = 'ERROR'"),
    Correlation(
        "execution time / span name LIKE", "execution_time > 10000", "span.name LIKE '%database%'"
    ),
    Correlation(
        "attribute LIKE / span status",
        "span.attributes.model LIKE '%gpt-4%'",
        "span.status = 'ERROR'",
    ),
    Correlation(
        "attribute = / attribute =",
        "span.attributes.error_type LIKE '%timeout%'",
        "span.attributes.service LIKE '%external_api%'",
        ours1="span.attributes['error_type'] = 'timeout'",
        ours2="span.attributes['service'] = 'external_api'",
    ),
    Correlation(
        "attribute = / execution time",
        "span.attributes.model RLIKE '^llama-3-70b$'",
        "execution_time > 15000",
        ours1="span.attributes['model'] = 'llama-3-70b'",
    ),
    Correlation("feedback / tag", "feedback.user_rating <= 2", "tags.version = 'v2.0.1'"),
    Correlation("feedback / feedback", "feedback.relevance = 'no'", "feedback.user_rating < 3"),
    Correlation("feedback / span", "feedback.quality < 0.6", "span.status = 'ERROR'"),
    Correlation("text / status", "trace.text LIKE '%rate limit%'", "status = 'ERROR'"),
    Correlation(
        "within a week: span / status", "span.type = 'TOOL'", "status = 'ERROR'", window(WEEK)
    ),
    Correlation(
        "within production: tag / execution time",
        "tags.customer_tier = 'enterprise'",
        "execution_time > 10000",
        "tags.environment = 'production'",
    ),
)
