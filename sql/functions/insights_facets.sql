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
select
    r.value,
    r.low,
    r.high,
    r.filter,
    r.count,
    r.share
from insights.run_facets(exp_ids, filter, field, max_results, unit) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_facets(text[], text, text, int, text) is
    'The values of a field among the traces that match a filter, most frequent first, or intervals '
    'of its numbers in ascending order: each with its count, its share of the matching traces, and '
    'a filter for it';

revoke all on function @mlflow@.insights_facets(text[], text, text, int, text) from public;
grant execute on function @mlflow@.insights_facets(text[], text, text, int, text) to public;

-- The others take the ids as numbers or as one text.  They have no SET
-- clause and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_facets(
    exp_ids int[],
    filter text,
    field text,
    max_results int default 20,
    unit text default 'trace'
)
returns setof insights.facet
language sql
stable
parallel unsafe
as $sql$
select * from @mlflow@.insights_facets(exp_ids::pg_catalog.text[], filter, field, max_results, unit)
$sql$;

comment on function @mlflow@.insights_facets(int[], text, text, int, text) is
    'The values of a field among the traces that match a filter, most frequent first, or intervals '
    'of its numbers in ascending order: each with its count, its share of the matching traces, and '
    'a filter for it';

revoke all on function @mlflow@.insights_facets(int[], text, text, int, text) from public;
grant execute on function @mlflow@.insights_facets(int[], text, text, int, text) to public;

create or replace function @mlflow@.insights_facets(
    exp_ids text,
    filter text,
    field text,
    max_results int default 20,
    unit text default 'trace'
)
returns setof insights.facet
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_facets(insights.experiment_ids(exp_ids), filter, field, max_results, unit)
$sql$;

comment on function @mlflow@.insights_facets(text, text, text, int, text) is
    'The values of a field among the traces that match a filter, most frequent first, or intervals '
    'of its numbers in ascending order: each with its count, its share of the matching traces, and '
    'a filter for it';

revoke all on function @mlflow@.insights_facets(text, text, text, int, text) from public;
grant execute on function @mlflow@.insights_facets(text, text, text, int, text) to public;
