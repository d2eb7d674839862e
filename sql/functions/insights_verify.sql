create or replace function @mlflow@.insights_verify(max_problems int default 100)
returns table (trace_id text, problem text)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select r.trace_id, r.disagreement
from insights.run_verify(max_problems) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_verify(int) is
    'Reads every indexed trace again and reports where the index is wrong; no rows: nowhere';

revoke all on function @mlflow@.insights_verify(int) from public;
