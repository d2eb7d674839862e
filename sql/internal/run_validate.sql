create or replace function insights.run_validate(
    filter text,
    out result text,
    out problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "@engine@" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["@engine@"].validate(plpy, filter)
$python$;

comment on function insights.run_validate(text) is
    'insights_validate without raising';

revoke all on function insights.run_validate(text) from public;
grant execute on function insights.run_validate(text) to public;
