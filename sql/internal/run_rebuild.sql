create or replace function insights.run_rebuild(
    batch_size int default 32000,
    leased boolean default false,
    out busy boolean,
    out problem insights.problem
)
language plpython3u
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
-- shim: start_over
$python$;

comment on function insights.run_rebuild(int, boolean) is
    'Marks the index as to be built anew, in batches of the size given; without raising. leased: this session is going to build it';

revoke all on function insights.run_rebuild(int, boolean) from public;
