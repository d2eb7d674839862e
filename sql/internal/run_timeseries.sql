create or replace function insights.run_timeseries(
    exp_ids text[],
    filter text,
    bucket text,
    first_ms bigint,
    end_ms bigint,
    time_zone text,
    unit text,
    -- Arrays as texts, with an element for each bucket: PL/Python takes much longer for rows.
    out start_ms text,
    out matched text,
    out total text,
    out errors text,
    out p50_ms text,
    out p95_ms text,
    out p99_ms text,
    out tokens text,
    out cost text,
    out problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
-- shim: timeseries
$python$;

comment on function insights.run_timeseries(text[], text, text, bigint, bigint, text, text) is
    'insights_timeseries without raising';

revoke all on function insights.run_timeseries(text[], text, text, bigint, bigint, text, text) from public;
grant execute on function insights.run_timeseries(text[], text, text, bigint, bigint, text, text) to public;
