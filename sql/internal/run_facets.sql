create or replace function insights.run_facets(
    exp_ids text[],
    filter_text text,
    field text,
    max_results int,
    unit text
)
returns table (
    @columns:facet@,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
-- shim: facets
$python$;

comment on function insights.run_facets(text[], text, text, int, text) is
    'insights_facets without raising';

revoke all on function insights.run_facets(text[], text, text, int, text) from public;
grant execute on function insights.run_facets(text[], text, text, int, text) to public;
