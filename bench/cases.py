"""What is compared: pages of searches, correlations, and counts.

Stock compares a span attribute only by its text within the whole span; where our
own filter is written differently, both stand here, and their counts must be the
same before anything is timed.  The same goes for the conditions on native columns
that DuckDB and chDB are given (`bench.columns` says which columns there are).
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.conditions import Condition, Spans, Text, Trace
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


SAME = "as ours"


@dataclass(frozen=True)
class Question:
    """One filter in the three languages; ``stock`` is None where stock has none."""

    ours: str
    columns: Condition
    stock: str | None = SAME

    @property
    def in_stock(self) -> str | None:
        """The filter for stock MLflow, if it can be asked at all."""
        return self.ours if self.stock == SAME else self.stock


@dataclass(frozen=True)
class Correlation:
    """Two questions and what they are tested on.

    ``in_aim`` is false where an index of facts is not meant to help.
    """

    name: str
    first: Question
    second: Question
    base: Question | None = None
    in_aim: bool = True


@dataclass(frozen=True)
class Count:
    """A question of which only the number of traces is wanted."""

    name: str
    question: Question


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


def _during(bounds: tuple[int, int]) -> Question:
    """The traces that began between two times."""
    columns = f"timestamp_ms >= {bounds[0]} and timestamp_ms < {bounds[1]}"
    return Question(window(bounds), Trace(columns))


ERROR = Question("status = 'ERROR'", Trace("status = 'ERROR'"))
OK = Question("status = 'OK'", Trace("status = 'OK'"))
SPAN_ERROR = Question("span.status = 'ERROR'", Spans("status = 'ERROR'"))
RELEASE = Question("tags.version = 'v2.0.1'", Trace("version = 'v2.0.1'"))
PRODUCTION = Question("tags.environment = 'production'", Trace("environment = 'production'"))
ENTERPRISE = Question("tags.customer_tier = 'enterprise'", Trace("customer_tier = 'enterprise'"))
ALERT = Question("tags.resource_alert = 'high_usage'", Trace("resource_alert = 'high_usage'"))
TOOL = Question("span.type = 'TOOL'", Spans("type = 'TOOL'"))
LLM = Question("span.type = 'LLM'", Spans("type = 'LLM'"))
RETRIEVER = Question("span.type = 'RETRIEVER'", Spans("type = 'RETRIEVER'"))
DATABASE = Question("span.name LIKE '%database%'", Spans("name like '%database%'"))
OVER_10_S = Question("execution_time > 10000", Trace("execution_time_ms > 10000"))
LLAMA = Question(
    "span.attributes['model'] = 'llama-3-70b'",
    Spans("model = 'llama-3-70b'"),
    "span.attributes.model RLIKE '^llama-3-70b$'",
)
GPT4 = Question(
    "span.attributes['model'] = 'gpt-4'",
    Spans("model = 'gpt-4'"),
    "span.attributes.model RLIKE '^gpt-4$'",
)
LIKE_GPT4 = Question("span.attributes.model LIKE '%gpt-4%'", Spans("model like '%gpt-4%'"))
TIMEOUT = Question(
    "span.attributes['error_type'] = 'timeout'",
    Spans("error_type = 'timeout'"),
    "span.attributes.error_type LIKE '%timeout%'",
)
EXTERNAL = Question(
    "span.attributes['service'] = 'external_api'",
    Spans("service = 'external_api'"),
    "span.attributes.service LIKE '%external_api%'",
)
EXTERNAL_TIMEOUT = Question(
    "span.attributes.error_type = 'timeout' AND span.attributes.service = 'external_api'",
    Spans("error_type = 'timeout' and service = 'external_api'"),
    "span.attributes.error_type LIKE '%timeout%' AND span.attributes.service LIKE '%external%'",
)
CACHED = Question("span.attributes['cache_hit'] = 'true'", Spans("cache_hit = true"), None)
WARM = Question("span.attributes.temperature > 0.5", Spans("temperature > 0.5"), None)
LOW_RATING = Question("feedback.user_rating <= 2", Trace("user_rating <= 2"))
GOOD_QUALITY = Question("feedback.quality >= 0.8", Trace("quality >= 0.8"))
IRRELEVANT = Question("feedback.relevance = 'no'", Trace("relevance = 'no'"))
HELPFUL = Question(
    "assessment.helpful = 'true'", Trace("helpful = true"), "feedback.helpful = 'true'"
)
EXPECTED = Question("expectation.expected_answer IS NOT NULL", Trace("expected_answer is not null"))
EXPECTED_LIKE = Question(
    "expectation.expected_answer LIKE '%invoice%'", Trace("expected_answer like '%invoice%'")
)
MANY_TOKENS = Question("trace.total_tokens > 1500", Trace("total_tokens > 1500"), None)
MANY_LLM = Question("count(span.type = 'LLM') > 3", Spans("type = 'LLM'", 3), None)
SOME_ERRORS = Question("count(span.status = 'ERROR') > 0", Spans("status = 'ERROR'"), None)
RETRIES = Question("count(span.name LIKE '%retry%') > 1", Spans("name like '%retry%'", 1), None)
EMBEDDING = Question(
    "count(span.type = 'EMBEDDING') > 5 OR count(span.name LIKE '%embed%') > 3",
    Spans("type = 'EMBEDDING'", 5) | Spans("name like '%embed%'", 3),
    None,
)
COMPLEX = Question(
    "count(span.type = 'LLM') > 2 AND trace.execution_time_ms > 5000"
    " AND tags.customer_tier = 'enterprise'",
    Spans("type = 'LLM'", 2) & Trace("execution_time_ms > 5000 and customer_tier = 'enterprise'"),
    None,
)
NO_TOOL = Question("NOT span.type = 'TOOL'", ~Spans("type = 'TOOL'"), None)
PRODUCTION_ERROR = Question(
    "tags.environment = 'production' AND status = 'ERROR'",
    Trace("environment = 'production' and status = 'ERROR'"),
)
SLOW_OR_FAILED = Question(
    "(trace.execution_time_ms > 10000 OR count(span.status = 'ERROR') > 0)"
    " AND tags.environment = 'production'",
    (Trace("execution_time_ms > 10000") | Spans("status = 'ERROR'"))
    & Trace("environment = 'production'"),
    None,
)
RATE_LIMIT = Question("trace.text LIKE '%rate limit%'", Text("content like '%rate limit%'"))


CORRELATIONS = (
    Correlation("tag / status", RELEASE, ERROR),
    Correlation(
        "tag / tag LIKE",
        PRODUCTION,
        Question("tags.region LIKE 'eu-%'", Trace("region like 'eu-%'")),
    ),
    Correlation("two facts AND / tag", PRODUCTION_ERROR, RELEASE),
    Correlation(
        "metadata / status",
        Question("metadata.mlflow.source.type = 'LOCAL'", Trace("source_type = 'LOCAL'")),
        OK,
    ),
    Correlation(
        "execution time / status",
        Question(
            "execution_time >= 5000 AND execution_time < 20000",
            Trace("execution_time_ms >= 5000 and execution_time_ms < 20000"),
        ),
        ERROR,
    ),
    Correlation("span type / span type", LLM, TOOL),
    Correlation("span type / span status", RETRIEVER, SPAN_ERROR),
    Correlation(
        "span name / feedback number",
        Question("span.name = 'advanced_analysis'", Spans("name = 'advanced_analysis'")),
        LOW_RATING,
    ),
    Correlation("execution time / span name LIKE", OVER_10_S, DATABASE),
    Correlation("attribute = / span status", GPT4, SPAN_ERROR),
    Correlation("attribute LIKE / span status", LIKE_GPT4, SPAN_ERROR),
    Correlation("attribute = / attribute =", TIMEOUT, EXTERNAL),
    Correlation("two attributes of one span / tag", EXTERNAL_TIMEOUT, RELEASE),
    Correlation(
        "attribute = / execution time",
        LLAMA,
        Question("execution_time > 15000", Trace("execution_time_ms > 15000")),
    ),
    Correlation(
        "attribute true / execution time",
        CACHED,
        Question("execution_time < 2000", Trace("execution_time_ms < 2000")),
    ),
    Correlation("attribute number / feedback number", WARM, GOOD_QUALITY),
    Correlation("feedback number / tag", LOW_RATING, RELEASE),
    Correlation(
        "feedback text / feedback number",
        IRRELEVANT,
        Question("feedback.user_rating < 3", Trace("user_rating < 3")),
    ),
    Correlation(
        "feedback number / span status",
        Question("feedback.quality < 0.6", Trace("quality < 0.6")),
        SPAN_ERROR,
    ),
    Correlation("assessment true / span type", HELPFUL, RETRIEVER),
    Correlation("expectation / tag", EXPECTED, ENTERPRISE),
    Correlation("expectation LIKE / tag", EXPECTED_LIKE, ENTERPRISE, in_aim=False),
    Correlation("tokens / span type", MANY_TOKENS, RETRIEVER),
    Correlation("count / execution time", MANY_LLM, OVER_10_S),
    Correlation("count / count", SOME_ERRORS, RETRIES),
    Correlation("count OR count / tag", EMBEDDING, ALERT),
    Correlation("count AND time AND tag / status", COMPLEX, ERROR),
    Correlation("OR with count / tag", SLOW_OR_FAILED, RELEASE),
    Correlation("NOT span type / status", NO_TOOL, ERROR),
    Correlation("within a week: span type / status", TOOL, ERROR, _during(WEEK)),
    Correlation("within an hour: span type / span status", TOOL, SPAN_ERROR, _during(HOUR)),
    Correlation("within production: tag / execution time", ENTERPRISE, OVER_10_S, PRODUCTION),
    Correlation("text LIKE / status", RATE_LIMIT, ERROR, in_aim=False),
)

COUNTS = (
    Count("count of a type", MANY_LLM),
    Count(
        "count of two types",
        Question(
            "count(span.type = 'CHAIN') >= 1 AND count(span.type = 'RETRIEVER') > 1",
            Spans("type = 'CHAIN'") & Spans("type = 'RETRIEVER'", 1),
        ),
    ),
    Count("count of a status", SOME_ERRORS),
    Count("count with LIKE", RETRIES),
    Count("count OR count", EMBEDDING),
    Count("span name LIKE", DATABASE),
    Count("attribute LIKE", LIKE_GPT4),
    Count("tag LIKE", Question("tags.version LIKE 'v2.%'", Trace("version like 'v2.%'"))),
    Count("execution time >", OVER_10_S),
    Count(
        "execution time BETWEEN",
        Question(
            "trace.execution_time_ms BETWEEN 1234 AND 5678",
            Trace("execution_time_ms between 1234 and 5678"),
        ),
    ),
    Count("feedback >=", GOOD_QUALITY),
    Count("feedback <=", LOW_RATING),
    Count("total tokens", MANY_TOKENS),
    Count(
        "input tokens",
        Question(
            "trace.input_tokens BETWEEN 500 AND 900", Trace("input_tokens between 500 and 900")
        ),
    ),
    Count("total cost", Question("trace.total_cost > 0.05", Trace("total_cost > 0.05"))),
    Count("attribute number", WARM),
    Count(
        "attribute integer",
        Question("span.attributes.documents_found < 3", Spans("documents_found < 3")),
    ),
    Count("a week", _during(WEEK)),
    Count("an hour", _during(HOUR)),
    Count(
        "a week and a type",
        Question(f"{window(WEEK)} AND span.type = 'TOOL'", _during(WEEK).columns & TOOL.columns),
    ),
    Count("OR of time and count", SLOW_OR_FAILED),
    Count(
        "OR of tag and attribute",
        Question(
            "tags.resource_alert = 'high_usage' OR span.attributes.error_type = 'timeout'",
            ALERT.columns | TIMEOUT.columns,
        ),
    ),
    Count("NOT a type", NO_TOOL),
    Count(
        "NOT (LIKE or range)",
        Question(
            "NOT (any(span.name LIKE '%database%') OR trace.execution_time_ms > 10000)",
            ~(DATABASE.columns | OVER_10_S.columns),
        ),
    ),
    Count(
        "NOT a feedback",
        Question("NOT feedback.quality >= 0.8", ~GOOD_QUALITY.columns),
    ),
)
