create or replace function insights.run_facets(
    exp_ids text[],
    filter_text text,
    field text,
    max_results int,
    unit text
)
returns table (
    value text,
    low double precision,
    high double precision,
    filter text,
    count bigint,
    share double precision,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "@engine@" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["@engine@"].facets(
    plpy, '@mlflow@', exp_ids, filter_text, field, max_results, unit
)
$python$;

comment on function insights.run_facets(text[], text, text, int, text) is
    'insights_facets without raising';

revoke all on function insights.run_facets(text[], text, text, int, text) from public;
grant execute on function insights.run_facets(text[], text, text, int, text) to public;
