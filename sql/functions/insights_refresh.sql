-- shim: refresh_index
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
select insights.load_engine();
select r.indexed, r.removed, r.merged, r.pending, r.busy
from insights.run_refresh(max_traces) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_refresh(int) is
    'Indexes traces that have changed, in the caller''s transaction, and merges small blocks. It is what
pg_cron calls. Changes that could not be noted are caught up with first; a rebuild that was interrupted goes on.

- `max_traces`: so many pending traces at most, 1 to 1000000; those that share a session with them may come on top

A row says:

- `indexed`, `removed`: traces that were indexed anew, and that are gone from the index
- `merged`: blocks that were merged into others
- `pending`: changes that are still to be indexed; a million at most are counted
- `busy`: another session is at it, or transactions have to end before what was missed can be caught up with, so
  nothing was done

SQLSTATE 22023 in a transaction that is not READ COMMITTED, 42501 for roles from which row security hides traces, 55000
where a trigger is missing or MLflow''s tables would run code of their owner''s.';

revoke all on function @mlflow@.insights_refresh(int) from public;
