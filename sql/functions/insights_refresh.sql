-- A session may plan its statements while the index is still empty, and keep the plans:
-- they must use indexes nevertheless.
create or replace function @mlflow@.insights_refresh(
    max_traces int default 5000,
    out indexed int,
    out removed int,
    out merged int,
    out pending int,
    out busy boolean
)
language sql
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
set enable_seqscan = off
as $sql$
select r.indexed, r.removed, r.merged, r.pending, r.busy
from insights.run_refresh(max_traces) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_refresh(int) is
    'Indexes up to max_traces of the traces that changed; busy: another session is at it';

revoke all on function @mlflow@.insights_refresh(int) from public;
