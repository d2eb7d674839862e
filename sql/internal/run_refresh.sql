create or replace function insights.run_refresh(
    max_traces int,
    out indexed int,
    out removed int,
    out merged int,
    out pending int,
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
return GD["@engine@"].refresh_index(plpy, '@mlflow@', max_traces)
$python$;

comment on function insights.run_refresh(int) is
    'insights_refresh without raising';

revoke all on function insights.run_refresh(int) from public;
