create or replace function insights.run_build_batch(
    max_traces int,
    leased boolean,
    out indexed int,
    out done boolean,
    out busy boolean,
    out problem insights.problem
)
language plpython3u
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "@engine@" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["@engine@"].build_index(plpy, '@mlflow@', max_traces, leased)
$python$;

comment on function insights.run_build_batch(int, boolean) is
    'build_batch without raising';

revoke all on function insights.run_build_batch(int, boolean) from public;
