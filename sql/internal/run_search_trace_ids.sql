create or replace function insights.run_search_trace_ids(
    exp_ids text[],
    filter text,
    max_results int,
    order_by text[],
    page_token text,
    page_offset int
)
returns table (
    trace_id text,
    next_page_token text,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "@engine@" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["@engine@"].search_trace_ids(
    plpy, '@mlflow@', exp_ids, filter, max_results, order_by, page_token, page_offset
)
$python$;

comment on function insights.run_search_trace_ids(text[], text, int, text[], text, int) is
    'search_trace_ids without raising';

revoke all on function insights.run_search_trace_ids(text[], text, int, text[], text, int) from public;
grant execute on function insights.run_search_trace_ids(text[], text, int, text[], text, int) to public;
