create or replace function insights.run_count(
    exp_ids text[],
    filter text,
    unit text,
    out result bigint,
    out problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "@engine@" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["@engine@"].count(plpy, '@mlflow@', exp_ids, filter, unit)
$python$;

comment on function insights.run_count(text[], text, text) is
    'insights_count without raising';

revoke all on function insights.run_count(text[], text, text) from public;
grant execute on function insights.run_count(text[], text, text) to public;
