-- overloads: exp_ids int[], exp_ids text
create or replace function @mlflow@.insights_facets(
    exp_ids text[],
    filter text,
    field text,
    max_results int default 20,
    unit text default 'trace'
)
returns setof insights.facet
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select
    r.@columns:facet@
from insights.run_facets(exp_ids, filter, field, max_results, unit) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_facets(text[], text, text, int, text) is
    'The values of a field among the traces that match a filter, most frequent first; or intervals of its
numbers in ascending order, once there are more different ones than `max_results`.

- `exp_ids`, `filter`, `unit`: as in insights_count
- `field`: any field of the language, such as ''tags.env'' or ''span.attributes.model''
- `max_results`: values or intervals at most, 1 to 1000

A row says:

- `value`: the value as text, or the interval; NULL in the last row, for traces without any
- `low`, `high`: of an interval, low <= x < high; of a number itself, twice; otherwise NULL
- `filter`: matches what the row counts, joined to the filter by AND; NULL if it would be longer than 64 KiB
- `count`: the matching traces that have the value; a trace of several values counts for each
- `share`: `count` over all matching traces

SQLSTATE 22023 as in insights_count, and for `field` and `max_results`.';

revoke all on function @mlflow@.insights_facets(text[], text, text, int, text) from public;
grant execute on function @mlflow@.insights_facets(text[], text, text, int, text) to public;
