"""Stand-ins for stored functions that this branch does not have yet.

They have the signatures of the real ones and answer by calling those that there
are, on a few facts and fields only; enough to drive the client.  The fixture
`tests.client.conftest.world_dsn` installs them and is their only user: with the
real functions there, its line and this file go.
"""

from __future__ import annotations

from typing import Any

import psycopg


def install(conn: psycopg.Connection[Any]) -> None:
    """Puts the stand-ins where the real functions will be."""
    conn.execute(_UNIT.encode())
    conn.execute(_MATRIX.encode())
    conn.execute(_DISCOVER.encode())
    conn.execute(_FACETS.encode())
    conn.execute(_TIMESERIES.encode())
    conn.execute(_PATHS.encode())


#: `insights_count` and `insights_correlate` with their new last argument.
_UNIT = """
create schema before_unit;
grant usage on schema before_unit to public;
do $do$
declare
    f regprocedure;
begin
    for f in
        select p.oid
        from pg_proc p
        where p.proname in ('insights_count', 'insights_correlate')
        and p.pronamespace = 'public'::regnamespace
    loop
        if f::text like '%(text[]%' then
            execute format('alter function %s set schema before_unit', f);
        else
            execute format('drop function %s', f);
        end if;
    end loop;
end
$do$;

create function check_unit(unit text) returns boolean
language plpgsql
as $plpgsql$
begin
    if unit not in ('trace', 'session', 'session_all') then
        raise exception 'unknown unit %', unit using errcode = '22023';
    end if;
    return true;
end
$plpgsql$;

create function units(exp_ids text[], filter text, unit text) returns table (name text)
language sql stable
as $sql$
select s.session_id
from insights_search(exp_ids, filter, 50000) s
where check_unit(unit)
and s.session_id is not null
and (
    unit = 'session'
    or not exists (
        select from insights_search(exp_ids, 'NOT (' || filter || ')', 50000) o
        where o.session_id = s.session_id
    )
)
group by s.session_id
$sql$;

create function insights_count(
    exp_ids text[], filter text default null, unit text default 'trace'
)
returns bigint
language sql stable
as $sql$
select case
    when unit = 'trace' then before_unit.insights_count(exp_ids, filter)
    else (select count(*) from units(exp_ids, coalesce(filter, ''), unit))
end
$sql$;

create function insights_correlate(
    exp_ids text[],
    f1 text,
    f2 text,
    base_filter text default null,
    unit text default 'trace'
)
returns table (
    filter1_count bigint,
    filter2_count bigint,
    joint_count bigint,
    total_count bigint,
    npmi double precision,
    npmi_smoothed double precision,
    lift double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision
)
language sql stable
as $sql$
select * from before_unit.insights_correlate(exp_ids, f1, f2, base_filter) where unit = 'trace'
union all
select
    (select count(*) from units(exp_ids, f1, unit)),
    (select count(*) from units(exp_ids, f2, unit)),
    (
        select count(*)
        from units(exp_ids, f1, unit) a
        join units(exp_ids, f2, unit) b on a.name = b.name
    ),
    (select count(*) from units(exp_ids, coalesce(base_filter, ''), unit)),
    'NaN', 'NaN', null, null, null, null, null, null
where unit <> 'trace'
$sql$;
"""

_MATRIX = """
create function insights_correlation_matrix(
    exp_ids text[],
    filters text[],
    base_filter text default null,
    unit text default 'trace'
)
returns table (
    filter1_number integer,
    filter2_number integer,
    filter1 text,
    filter2 text,
    filter1_count bigint,
    filter2_count bigint,
    joint_count bigint,
    total_count bigint,
    npmi double precision,
    npmi_smoothed double precision,
    lift double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision
)
language sql stable
as $sql$
select a.n::int, b.n::int, a.f, b.f, c.*
from unnest(filters) with ordinality a(f, n)
join unnest(filters) with ordinality b(f, n) on a.n < b.n,
lateral insights_correlate(exp_ids, a.f, b.f, base_filter, unit) c
order by a.n, b.n
$sql$;
"""

_FACT = """
returns table (
    filter text,
    kind text,
    key text,
    value text,
    target_count bigint,
    fact_count bigint,
    joint_count bigint,
    total_count bigint,
    target_share double precision,
    other_share double precision,
    difference double precision,
    lift double precision,
    npmi double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    q_value double precision,
    test text,
    restates boolean,
    "similar" text[],
    tested bigint
)
"""

_DISCOVER = f"""
create function insights_discover(
    exp_ids text[],
    target text,
    base_filter text default null,
    kinds text[] default null,
    min_support integer default 5,
    max_results integer default 20,
    fdr double precision default 0.05,
    direction text default 'positive',
    pairs boolean default false,
    restatements boolean default false,
    unit text default 'trace'
)
{_FACT}
language sql stable
as $sql$
with fact(kind, key, value, filter, test, "similar") as (
    values
    ('attribute', 'model', 'gpt-4', 'span.attributes.model = ''gpt-4''', 'Fisher',
     '{{}}'::text[]),
    ('attribute', 'model', 'gpt-4o-mini', 'span.attributes.model = ''gpt-4o-mini''', 'Fisher',
     '{{}}'),
    ('tag', 'release', 'v2', 'tags.release = ''v2''', 'Fisher',
     array['request_preview = ''Which plan includes single sign-on?''']),
    ('tag', 'release', 'v1', 'tags.release = ''v1''', 'Fisher', '{{}}'),
    ('metadata', 'mlflow.trace.user', 'ada', 'metadata.`mlflow.trace.user` = ''ada''', 'Fisher',
     '{{}}'),
    ('span', 'status', 'ERROR', 'span.status = ''ERROR''', 'Fisher', '{{}}'),
    ('number', 'execution_time_ms', null, 'execution_time_ms > 4800', 'best of 31 splits, G2',
     '{{}}')
), counted as (
    select
        f.*,
        c.*,
        c.joint_count::float8 / nullif(c.filter1_count, 0) as target_share,
        (c.filter2_count - c.joint_count)::float8
            / nullif(c.total_count - c.filter1_count, 0) as other_share,
        f.filter = target as restates
    from fact f, lateral insights_correlate(exp_ids, target, f.filter, base_filter, unit) c
    where coalesce(f.kind = any (kinds), true)
    and c.filter2_count >= min_support
), tested as (
    select
        c.*,
        min(c.p_value * t.n / t.rank) over (order by c.p_value desc) as q_value,
        t.n as tested
    from counted c
    join (
        select filter, count(*) over () as n, rank() over (order by p_value) as rank from counted
    ) t using (filter)
)
select
    filter, kind, key, value, filter1_count, filter2_count, joint_count, total_count,
    target_share, other_share, target_share - other_share, lift, npmi, phi,
    odds_ratio, odds_ratio_low, odds_ratio_high, p_value, q_value, test,
    restates, "similar", tested
from tested
where q_value <= fdr
and (restatements or not restates)
and (direction = 'both' or (odds_ratio > 1) = (direction = 'positive'))
order by
    case
        when odds_ratio > 1 then ln(odds_ratio_low)
        else -ln(odds_ratio_high)
    end desc
limit max_results
$sql$;

create function insights_compare(
    exp_ids text[],
    selection text,
    baseline text,
    kinds text[] default null,
    min_support integer default 5,
    max_results integer default 20,
    fdr double precision default 0.05,
    direction text default 'positive',
    pairs boolean default false,
    restatements boolean default false,
    unit text default 'trace'
)
{_FACT}
language sql stable
as $sql$
with checked as materialized (
    select insights_validate(selection) as selection, insights_validate(baseline) as baseline
)
select d.*
from checked c, lateral insights_discover(
    exp_ids, c.selection, '(' || c.selection || ') OR (' || c.baseline || ')',
    kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
) d
$sql$;
"""

_FACETS = """
create function insights_facets(
    exp_ids text[],
    filter text,
    field text,
    max_results integer default 20,
    unit text default 'trace'
)
returns table (
    value text,
    low double precision,
    high double precision,
    filter text,
    count bigint,
    share double precision
)
language sql stable
as $sql$
with narrowed as (
    select case
        when insights_facets.filter = '' then '' else '(' || insights_facets.filter || ') AND '
    end as prefix
    where insights_validate(field || ' IS NULL') <> ''
), listed as (
    select null::text as value, i::float8 as low, i::float8 + 2000 as high,
        format('%s >= %s AND %s < %s', field, i, field, i + 2000) as condition
    from generate_series(0, 8000, 2000) i
    where field = 'execution_time_ms'
    union all
    select distinct t.value::text, null::float8, null::float8,
        format('%s = %L', field, t.value)
    from trace_tags t
    where field = 'tags.' || t.key
    union all
    select null, null, null, field || ' IS NULL'
), counted as (
    select
        h.*,
        insights_count(exp_ids, n.prefix || '(' || h.condition || ')', unit) as found,
        insights_count(exp_ids, insights_facets.filter, unit) as whole
    from listed h, narrowed n
)
select c.value, c.low, c.high, c.condition, c.found, c.found::float8 / nullif(c.whole, 0)
from counted c
where c.found > 0
order by c.condition like '%IS NULL', c.low, c.found desc, c.value
limit max_results
$sql$;
"""

_TIMESERIES = """
create function insights_timeseries(
    exp_ids text[],
    filter text,
    bucket text default '1 hour',
    start_time timestamptz default null,
    end_time timestamptz default null,
    time_zone text default 'UTC',
    unit text default 'trace'
)
returns table (
    "time" timestamptz,
    matched bigint,
    total bigint,
    rate double precision,
    errors bigint,
    error_rate double precision,
    p50_ms double precision,
    p95_ms double precision,
    p99_ms double precision,
    tokens bigint,
    cost double precision
)
language sql stable
as $sql$
with every as (
    select
        s.trace_id,
        s.timestamp_ms,
        s.execution_time_ms,
        s.status,
        i.total_tokens,
        to_timestamp(s.timestamp_ms / 1000.0) as at,
        m.trace_id is not null as matches
    from insights_search(exp_ids, '', 50000) s
    join trace_info i on i.request_id = s.trace_id
    left join insights_search(exp_ids, filter, 50000) m on m.trace_id = s.trace_id
    where check_unit(unit)
), bounds as (
    select coalesce(start_time, min(at)) as first, coalesce(end_time, max(at)) as last from every
), buckets as (
    select g as local
    from bounds b, generate_series(
        date_bin(bucket::interval, b.first at time zone time_zone, '2001-01-01'),
        b.last at time zone time_zone,
        bucket::interval
    ) g
)
select
    b.local at time zone time_zone,
    count(*) filter (where e.matches),
    count(e.trace_id),
    (count(*) filter (where e.matches))::float8 / nullif(count(e.trace_id), 0),
    count(*) filter (where e.matches and e.status = 'ERROR'),
    (count(*) filter (where e.matches and e.status = 'ERROR'))::float8
        / nullif(count(*) filter (where e.matches), 0),
    percentile_cont(0.5) within group (order by e.execution_time_ms) filter (where e.matches),
    percentile_cont(0.95) within group (order by e.execution_time_ms) filter (where e.matches),
    percentile_cont(0.99) within group (order by e.execution_time_ms) filter (where e.matches),
    sum(e.total_tokens) filter (where e.matches),
    null::float8
from buckets b
left join every e
    on e.at at time zone time_zone >= b.local
    and e.at at time zone time_zone < b.local + bucket::interval
group by b.local
order by b.local
$sql$;
"""

#: They find each other also where the caller's search path is another.
_PATHS = """
do $do$
declare
    f regprocedure;
begin
    for f in
        select p.oid
        from pg_proc p
        join pg_language l on l.oid = p.prolang
        where p.pronamespace = 'public'::regnamespace
        and l.lanname = 'sql'
        and p.proconfig is null
        and p.proname ~ '^(units|insights_(count|correlat|discover|compare|facets|timeseries))'
    loop
        execute format('alter function %s set search_path = public, pg_temp', f);
    end loop;
end
$do$
"""
