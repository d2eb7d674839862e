-- shim: build_index
-- A session may plan its statements while the index is still empty, and keep the plans:
-- they must use indexes nevertheless.
-- Indexes a database that had traces before, batch by batch: one transaction each,
-- until `done`.
create or replace function insights.build_batch(
    max_traces int default 32000,
    leased boolean default false,
    out indexed int,
    out done boolean,
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
select r.indexed, r.done, r.busy
from insights.run_build_batch(max_traces, leased) r
where insights.accept(r.problem)
$sql$;

comment on function insights.build_batch(int, boolean) is
    'Indexes the next traces while the index is being built; busy: another session writes the index, or older transactions '
    'have to be waited for. leased: this session goes on until it is done';

revoke all on function insights.build_batch(int, boolean) from public;
