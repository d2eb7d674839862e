create or replace function @mlflow@.insights_verify(max_problems int default 100)
returns table (trace_id text, problem text)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select r.trace_id, r.disagreement
from insights.run_verify(max_problems) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_verify(int) is
    'Reads every indexed trace again and reports where the index is wrong. No rows: nowhere.

- `max_problems`: rows at most, 1 to 100000

A row says:

- `trace_id`: the trace; NULL where it is no single one
- `problem`: what is wrong';

revoke all on function @mlflow@.insights_verify(int) from public;
