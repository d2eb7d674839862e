create or replace function insights.run_search(
    exp_ids text[],
    filter text,
    max_results int,
    order_by text[],
    page_token text
)
returns table (
    trace_id text,
    experiment_id text,
    timestamp_ms bigint,
    execution_time_ms bigint,
    status text,
    trace_name text,
    session_id text,
    request_preview text,
    response_preview text,
    tags jsonb,
    metadata jsonb,
    assessments jsonb,
    next_page_token text,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
-- shim: search_traces
$python$;

comment on function insights.run_search(text[], text, int, text[], text) is
    'insights_search without raising';

revoke all on function insights.run_search(text[], text, int, text[], text) from public;
grant execute on function insights.run_search(text[], text, int, text[], text) to public;
