create or replace function insights.run_verify(max_problems int)
returns table (trace_id text, disagreement text, problem insights.problem)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
-- shim: verify_index
$python$;

comment on function insights.run_verify(int) is
    'insights_verify without raising';

revoke all on function insights.run_verify(int) from public;
