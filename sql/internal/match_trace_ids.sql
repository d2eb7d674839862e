create or replace function insights.match_trace_ids(
    exp_ids text[],
    filter text,
    trace_ids text[]
)
returns setof text
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select r.trace_id
from insights.run_match_trace_ids(exp_ids, filter, trace_ids) r
where insights.accept(r.problem)
$sql$;

comment on function insights.match_trace_ids(text[], text, text[]) is
    'Those of the given traces that match the filter, for the MLflow plugin';

revoke all on function insights.match_trace_ids(text[], text, text[]) from public;
grant execute on function insights.match_trace_ids(text[], text, text[]) to public;
