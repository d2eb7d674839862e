-- VOLATILE because PostgreSQL runs EXPLAIN in no other; it changes nothing.
create or replace function insights.run_explain(
    exp_ids text[],
    filter text
)
returns table (
    step text,
    detail text,
    problem insights.problem
)
language plpython3u
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "@engine@" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["@engine@"].explain(plpy, '@mlflow@', exp_ids, filter)
$python$;

comment on function insights.run_explain(text[], text) is
    'insights_explain without raising';

revoke all on function insights.run_explain(text[], text) from public;
grant execute on function insights.run_explain(text[], text) to public;
