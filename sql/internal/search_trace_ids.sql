create or replace function insights.search_trace_ids(
    exp_ids text[],
    filter text,
    max_results int default 100,
    order_by text[] default null,
    page_token text default null,
    page_offset int default null
)
returns table (
    trace_id text,
    next_page_token text
)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select
    r.trace_id,
    r.next_page_token
from insights.run_search_trace_ids(
    exp_ids, filter, max_results, order_by, page_token, page_offset
) r
where insights.accept(r.problem)
$sql$;

comment on function insights.search_trace_ids(text[], text, int, text[], text, int) is
    'insights_search for the MLflow plugin, which reads the rows itself; page_offset stands '
    'for an offset token of stock MLflow';

revoke all on function insights.search_trace_ids(text[], text, int, text[], text, int) from public;
grant execute on function insights.search_trace_ids(text[], text, int, text[], text, int) to public;
