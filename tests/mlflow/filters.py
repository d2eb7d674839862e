"""Hypothesis strategies for what both MLflow and the plugin accept, and mean the same by.

What part A of the semantics changes on purpose is left out here and listed in
test_differential.py.
"""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.mlflow import world as worlds
from tests.mlflow.world import START_MS, STEP_MS, World


def quoted(text: str) -> str:
    """A literal; MLflow knows no escape, so double quotes where single ones occur."""
    return f'"{text}"' if "'" in text else f"'{text}'"


def _like_patterns(values: list[str]) -> SearchStrategy[str]:
    value = st.sampled_from(values)
    return st.one_of(
        value,
        st.builds(lambda v, n: v[:n] + "%", value, st.integers(0, 4)),
        st.builds(lambda v, n: "%" + v[n : n + 3] + "%", value, st.integers(0, 5)),
        st.builds(lambda v: "_" * len(v), value),
        st.builds(lambda v: v.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_"), value),
    ).filter(lambda pattern: not _ends_in_escape(pattern))


def _ends_in_escape(pattern: str) -> bool:
    return (len(pattern) - len(pattern.rstrip("\\"))) % 2 == 1


def _regexes(values: list[str]) -> SearchStrategy[str]:
    plain = [value for value in values if value.isalnum()] or ["x"]
    return st.one_of(
        st.sampled_from(plain).map(lambda v: f"^{v[:2]}"),
        st.sampled_from(plain).map(lambda v: f"{v[-1]}$"),
        st.lists(st.sampled_from(plain), min_size=1, max_size=2).map("|".join),
        st.sampled_from(["", ".", "^$", "[aeiou]{1,2}", r"\d", "^.{4,8}$"]),
    )


def _text(
    names: list[str], values: list[str], *, lists: bool, nulls: bool, lower: bool = True
) -> SearchStrategy[str]:
    """Predicates on a text field; ``lower`` where MLflow takes small keywords."""
    field = st.sampled_from(names)
    literal = st.sampled_from([*values, "nowhere"]).map(quoted)

    def keyword(word: str) -> SearchStrategy[str]:
        return st.sampled_from([word, word.lower()] if lower else [word])

    kinds: list[SearchStrategy[tuple[str, ...]]] = [
        st.tuples(field, st.sampled_from(["=", "!="]), literal),
        st.tuples(field, keyword("LIKE"), _like_patterns(values).map(quoted)),
        st.tuples(field, keyword("ILIKE"), _like_patterns(values).map(str.upper).map(quoted)),
        st.tuples(field, keyword("RLIKE"), _regexes(values).map(quoted)),
    ]
    if lists:
        items = st.lists(literal, min_size=1, max_size=3, unique=True).map(", ".join)
        # MLflow reads lists as Python's, where a backslash is an escape.
        items = items.filter(lambda text: "\\" not in text).map(lambda text: f"({text})")
        kinds.append(st.tuples(field, keyword("IN") | keyword("NOT IN"), items))
    if nulls:
        kinds.append(st.tuples(field, keyword("IS NULL") | keyword("IS NOT NULL")))
    return st.one_of(kinds).map(" ".join)


def _numeric(names: list[str], numbers: SearchStrategy[int | float]) -> SearchStrategy[str]:
    return st.tuples(
        st.sampled_from(names),
        st.sampled_from(["=", "!=", ">", ">=", "<", "<="]),
        numbers.map(str),
    ).map(" ".join)


@cache
def predicates(world: World) -> SearchStrategy[str]:
    """One predicate that both stores accept and mean the same by."""
    times = st.integers(-1, 160).map(lambda step: START_MS + step * STEP_MS)
    assessment_words = [str(value) for value in worlds.QUALITIES if isinstance(value, str)]
    return st.one_of(
        _text(
            ["status", "trace.status", "attributes.status", "`status`"],
            ["OK", "ERROR", "IN_PROGRESS"],
            lists=True,
            nulls=False,
        ),
        _text(["request_id", "trace.request_id"], world.trace_ids, lists=True, nulls=False),
        _text(
            ["client_request_id"], [f"client-{n}" for n in range(1, 10)], lists=True, nulls=False
        ),
        _text(
            ["name", "trace.name", "tag.name", "tags.`mlflow.traceName`"],
            worlds.NAMES,
            lists=False,
            nulls=True,
        ),
        _text(
            ["tag.environment", "tags.environment", 'tag."environment"'],
            worlds.ENVIRONMENTS,
            lists=False,
            nulls=True,
        ),
        _text(["tags.`release version`"], worlds.VERSIONS, lists=False, nulls=True),
        _text(["tag.a.dotted.key"], ["1", "10", "20"], lists=False, nulls=True),
        _text(["metadata.region", "request_metadata.region"], ["eu"], lists=False, nulls=True),
        _text(
            ["metadata.`mlflow.trace.session`", "metadata.mlflow.trace.session"],
            worlds.SESSIONS,
            lists=False,
            nulls=True,
        ),
        _text(["metadata.`mlflow.trace.user`"], worlds.USERS, lists=False, nulls=True),
        st.sampled_from(world.prompts).map(lambda prompt: f"prompt = '{prompt}'"),
        st.sampled_from(world.issues).map(lambda issue: f"issue.id = '{issue}'"),
        st.sampled_from(["tokenUsage", "cost"]).flatmap(
            lambda key: st.sampled_from(["IS NULL", "IS NOT NULL", "= '{}'", "!= '{}'"]).map(
                lambda rest: f"metadata.`mlflow.trace.{key}` {rest}"
            )
        ),
        _numeric(["timestamp", "timestamp_ms", "trace.timestamp_ms"], times),
        _numeric(
            ["execution_time", "execution_time_ms", "trace.execution_time_ms"],
            st.sampled_from([-1, 0, 120, 4000, 4000.5, 12_500, 10**12]),
        ),
        _numeric(["end_time", "trace.end_time_ms"], times),
        _text(
            ["feedback.quality", "feedback.whole_session", "expectation.answer"],
            [*assessment_words, "yes", "no"],
            lists=False,
            nulls=True,
        ).filter(_same_in_stored_json),
        st.sampled_from(["= 'true'", "= '5'", "= 'null'", "!= 'true'", """= '["a", "b"]'"""]).map(
            lambda rest: f"feedback.quality {rest}"
        ),
        st.tuples(
            st.sampled_from(["feedback.quality", "feedback.whole_session", "expectation.answer"]),
            st.sampled_from([">", ">=", "<", "<="]),
            st.sampled_from(["0.5", "1", "4", "-1", "1e1"]),
        ).map(" ".join),
        span_predicates(),
    )


def _same_in_stored_json(predicate: str) -> bool:
    """Patterns hit the stored JSON in MLflow, here the text in it as well."""
    _, operator, *rest = predicate.split(" ", 2)
    if operator.upper() not in ("LIKE", "ILIKE", "RLIKE"):
        return True
    pattern = rest[0].strip("'")
    if operator.upper() == "RLIKE":
        return pattern.isalpha()
    return pattern.strip("%").isalpha() and pattern.startswith("%") and pattern.endswith("%")


@cache
def span_predicates() -> SearchStrategy[str]:
    """One predicate on spans."""
    attributes = st.sampled_from(list(worlds.ATTRIBUTES.items())).flatmap(
        lambda item: st.tuples(
            st.just(f"span.attributes.{item[0]}"),
            st.sampled_from(["LIKE", "ILIKE"]),
            st.sampled_from(item[1]).map(lambda value: f"'%{value}%'"),
        )
    )
    # Anchored on both sides: otherwise MLflow's pattern runs on into other attributes.
    regexes = st.sampled_from(list(worlds.ATTRIBUTES.items())).flatmap(
        lambda item: st.tuples(
            st.just(f"span.attributes.{item[0]}"),
            st.just("RLIKE"),
            st.sampled_from(item[1]).map(lambda value: f"'^{value}$'"),
        )
    )
    text = st.tuples(
        st.sampled_from(["span.content", "trace.text"]),
        st.sampled_from(["LIKE", "ILIKE"]),
        st.sampled_from(
            ["%Bayes%", "%naïve%", "%日本語%", r"%50\%\_off%", "%external_api%", "x"]
        ).map(quoted),
    )
    return st.one_of(
        _text(
            ["span.name", "span.`name`"], worlds.SPAN_NAMES, lists=True, nulls=False, lower=False
        ),
        _text(["span.type"], worlds.SPAN_TYPES, lists=True, nulls=False, lower=False),
        _text(["span.status"], ["OK", "ERROR", "UNSET"], lists=True, nulls=False, lower=False),
        st.one_of(attributes, regexes, text).map(" ".join),
    )


@cache
def filters(world: World) -> SearchStrategy[str]:
    """AND lists, with at most one clause on runs (of several MLflow heeds the last)."""
    run = st.sampled_from([*world.runs, "no-run"]).map(lambda run: f"run_id = '{run}'")
    conjunction = st.lists(predicates(world), max_size=3)
    runs = st.lists(run, max_size=1)
    return st.builds(
        lambda clauses, some_run, conjoin: conjoin.join([*some_run, *clauses]),
        conjunction,
        st.just([]) | st.just([]) | runs,
        st.sampled_from([" AND ", " and ", "\n  AND  "]),
    )


@cache
def orders(world: World) -> SearchStrategy[list[str]]:
    """``order_by`` lists of different fields."""
    fields = st.lists(
        st.sampled_from(
            [
                "timestamp_ms",
                "execution_time",
                "status",
                "request_id",
                "experiment_id",
                "name",
                "run_id",
                "tag.environment",
                "tags.`release version`",
                "metadata.region",
                "metadata.`mlflow.trace.session`",
            ]
        ),
        max_size=3,
        unique=True,
    )
    direction = st.sampled_from(["", " ASC", " DESC", " desc"])
    return fields.flatmap(
        lambda names: st.tuples(*(direction.map(name.__add__) for name in names)).map(list)
    )


@cache
def locations(world: World) -> SearchStrategy[list[str] | None]:
    """Experiments to search: some, all, none, unknown ones."""
    return st.none() | st.lists(
        st.sampled_from([*world.experiments, "0", "999"]), max_size=4, unique=True
    )
