-- shim: count
-- overloads: exp_ids int[], exp_ids text
create or replace function @mlflow@.insights_count(
    exp_ids text[],
    filter text default null,
    unit text default 'trace'
)
returns bigint
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select r.result
from insights.run_count(exp_ids, filter, unit) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_count(text[], text, text) is
    'How many traces match a filter.

- `exp_ids`: the experiments, up to 100000; NULL means all, an empty array none
- `filter`: in the language of MLflow''s search_traces and more; NULL and '''' match every trace
- `unit`: what is counted. ''trace''; ''session'': the sessions of which some trace matches; ''session_all'': those of
  which all traces do, among the requested experiments. Traces without a session id belong to none. NULL is ''trace''

Exact, whatever the state of the index. SQLSTATE 22023 if the filter (DETAIL: the filter with a caret under the
place), an experiment id or the unit is wrong; the HINT says what to write.';

revoke all on function @mlflow@.insights_count(text[], text, text) from public;
grant execute on function @mlflow@.insights_count(text[], text, text) to public;
