create or replace function insights.run_timeseries(
    exp_ids text[],
    filter text,
    bucket text,
    first_ms bigint,
    end_ms bigint,
    time_zone text,
    unit text
)
returns table (
    start_ms bigint,
    matched bigint,
    total bigint,
    rate double precision,
    errors bigint,
    error_rate double precision,
    p50_ms double precision,
    p95_ms double precision,
    p99_ms double precision,
    tokens bigint,
    cost double precision,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "@engine@" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["@engine@"].timeseries(
    plpy, '@mlflow@', exp_ids, filter, bucket, first_ms, end_ms, time_zone, unit
)
$python$;

comment on function insights.run_timeseries(text[], text, text, bigint, bigint, text, text) is
    'insights_timeseries without raising';

revoke all on function insights.run_timeseries(text[], text, text, bigint, bigint, text, text) from public;
grant execute on function insights.run_timeseries(text[], text, text, bigint, bigint, text, text) to public;
