create or replace function insights.run_match_trace_ids(
    exp_ids text[],
    filter text,
    trace_ids text[]
)
returns table (
    trace_id text,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
-- shim: match_trace_ids
$python$;

comment on function insights.run_match_trace_ids(text[], text, text[]) is
    'match_trace_ids without raising';

revoke all on function insights.run_match_trace_ids(text[], text, text[]) from public;
grant execute on function insights.run_match_trace_ids(text[], text, text[]) to public;
