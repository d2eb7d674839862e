"""Stored functions that the REST routes call, where the database does not have them yet.

Each has the arguments and columns of the real one and answers with rows of its
own: with what is hard to put into JSON (NaN, infinity, NULL), and with a refusal
of a filter that is none.
"""

from __future__ import annotations

from typing import Any

import psycopg

_DISCOVERED = """
returns table (
    filter text, kind text, key text, value text,
    target_count bigint, fact_count bigint, joint_count bigint, total_count bigint,
    target_share double precision, other_share double precision, difference double precision,
    lift double precision, npmi double precision, phi double precision,
    odds_ratio double precision, odds_ratio_low double precision, odds_ratio_high double precision,
    p_value double precision, q_value double precision,
    test text, restates boolean, similar text[], tested bigint
)
"""

_OPTIONS = """
    kinds text[] default null, min_support int default 5, max_results int default 20,
    fdr double precision default 0.05, direction text default 'positive',
    pairs boolean default false, restatements boolean default false, unit text default 'trace'
"""

_ONE_FACT = """
    return query select
        $$tags.release = 'v2'$$, 'tag', 'release', null::text,
        insights_count(exp_ids, {target}), 12::bigint, 10::bigint, insights_count(exp_ids),
        'NaN'::float8, 'infinity'::float8, '-infinity'::float8, 1.5::float8, 0.25::float8,
        null::float8, 3::float8, 1::float8, 9::float8, 1e-300::float8, 0::float8,
        'G2', false, array[$$tags.x = 'y'$$], 7::bigint;
"""

_BODIES = {
    "insights_discover": f"""
(exp_ids text[], target text, base_filter text default null, {_OPTIONS}) {_DISCOVERED}
language plpgsql stable as $body$
begin
    perform insights_validate(base_filter);
{_ONE_FACT.format(target="target")}
end $body$
""",
    "insights_compare": f"""
(exp_ids text[], selection text, baseline text, {_OPTIONS}) {_DISCOVERED}
language plpgsql stable as $body$
begin
    perform insights_validate(baseline);
{_ONE_FACT.format(target="selection")}
end $body$
""",
    "insights_correlation_matrix": """
(exp_ids text[], filters text[], base_filter text default null, unit text default 'trace')
returns table (
    filter1_number int, filter2_number int, filter1 text, filter2 text,
    filter1_count bigint, filter2_count bigint, joint_count bigint, total_count bigint,
    npmi double precision, npmi_smoothed double precision, lift double precision,
    phi double precision, odds_ratio double precision, odds_ratio_low double precision,
    odds_ratio_high double precision, p_value double precision
)
language sql stable as $body$
    select i::int, j::int, filters[i], filters[j], c.*
    from generate_subscripts(filters, 1) i
    join generate_subscripts(filters, 1) j on i < j
    cross join lateral insights_correlate(exp_ids, filters[i], filters[j], base_filter) c
    order by 1, 2
$body$
""",
    "insights_facets": """
(exp_ids text[], filter text, field text, max_results int default 20, unit text default 'trace')
returns setof stand_in_facet
language plpgsql stable as $body$
begin
    perform insights_validate(field || ' IS NULL');
    return query
        select 'v2', null::float8, null::float8, field || $$ = 'v2'$$,
            insights_count(exp_ids, insights_facets.filter), 0.5::float8
        union all
        select null, 0::float8, 'infinity'::float8, field || ' IS NULL', 0::bigint, 'NaN'::float8;
end $body$
""",
    "insights_timeseries": """
(
    exp_ids text[], filter text, bucket text default '1 hour',
    start_time timestamptz default null, end_time timestamptz default null,
    time_zone text default 'UTC', unit text default 'trace'
)
returns table (
    "time" timestamptz, matched bigint, total bigint, rate double precision, errors bigint,
    error_rate double precision, p50_ms double precision, p95_ms double precision,
    p99_ms double precision, tokens bigint, cost double precision
)
language plpgsql stable as $body$
begin
    perform now() at time zone time_zone, bucket::interval;
    return query select
        coalesce(start_time, '2026-01-05 10:00:00+01'), insights_count(exp_ids, filter),
        insights_count(exp_ids), 'NaN'::float8, 0::bigint, null::float8,
        1.5::float8, 'infinity'::float8, '-infinity'::float8, null::bigint, null::float8;
end $body$
""",
}


# The routes that ask these functions; docs/rest.md shows no replies of theirs.
ROUTES = ("discover", "compare", "matrix", "facets", "timeseries")

# PostgreSQL lets no argument have the name of a column, as `filter` here, except where the
# columns are those of a type.
_FACET = """
create type stand_in_facet as (
    value text, low double precision, high double precision, filter text, count bigint,
    share double precision
)
"""


def create(connection: psycopg.Connection[Any]) -> None:
    """Create those that the database lacks, for everyone to call."""
    for name, body in _BODIES.items():
        found = connection.execute("select from pg_proc where proname = %s", [name]).fetchone()
        if found is None and name == "insights_facets":
            connection.execute(_FACET)
        if found is None:
            connection.execute(f"create function public.{name} {body}".encode())
