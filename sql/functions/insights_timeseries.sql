-- overloads: exp_ids int[], exp_ids text, bucket interval
create or replace function @mlflow@.insights_timeseries(
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
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
-- The columns come as texts of arrays.
set array_nulls = on
as $sql$
select insights.load_engine();
select
    to_timestamp(b.start_ms / 1000.0::double precision),
    b.matched,
    b.total,
    b.matched / nullif(b.total, 0)::double precision,
    b.errors,
    b.errors / nullif(b.matched, 0)::double precision,
    b.p50_ms,
    b.p95_ms,
    b.p99_ms,
    b.tokens,
    b.cost
from insights.run_timeseries(
    exp_ids,
    filter,
    bucket,
    -- The first millisecond that is not before; an infinite time is no bound.
    case when isfinite(start_time) then ceil(extract(epoch from start_time) * 1000)::bigint end,
    case when isfinite(end_time) then ceil(extract(epoch from end_time) * 1000)::bigint end,
    time_zone,
    unit
) r
cross join lateral unnest(
    r.start_ms::bigint[],
    r.matched::bigint[],
    r.total::bigint[],
    r.errors::bigint[],
    r.p50_ms::double precision[],
    r.p95_ms::double precision[],
    r.p99_ms::double precision[],
    r.tokens::bigint[],
    r.cost::double precision[]
) b (start_ms, matched, total, errors, p50_ms, p95_ms, p99_ms, tokens, cost)
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_timeseries(
    text[], text, text, timestamptz, timestamptz, text, text
) is
    'The traces that match a filter, and all traces, by time: a row per bucket, empty ones too.

- `exp_ids`, `filter`, `unit`: as in insights_count; the unit is of `matched`, `total`, `errors` and their ratios
- `bucket`: an interval or its text: whole months, whole days, or less than a day. At most 10,000 buckets
- `start_time`, `end_time`: from the one on and before the other; NULL or infinite: as far as the traces go
- `time_zone`: where days and months begin

A row says:

- `time`: when the bucket begins
- `matched`, `total`, `rate`: traces that match, all of them, and the ratio of the two
- `errors`, `error_rate`: those that match and have status ERROR, and their share of those that match
- `p50_ms`, `p95_ms`, `p99_ms`: percentiles of the execution time of those that match, in milliseconds, as
  percentile_cont has them
- `tokens`, `cost`: sums of total_tokens and total_cost of those that match

Ratios of nothing, and percentiles and sums of no numbers, are NULL. SQLSTATE 22023 as in insights_count, and for
`bucket`, `time_zone` and the times.';

revoke all on function @mlflow@.insights_timeseries(
    text[], text, text, timestamptz, timestamptz, text, text
) from public;
grant execute on function @mlflow@.insights_timeseries(
    text[], text, text, timestamptz, timestamptz, text, text
) to public;
