-- shim: validate(plpy, filter)
create or replace function @mlflow@.insights_validate(
    filter text
)
returns text
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select r.result
from insights.run_validate(filter) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_validate(text) is
    'The canonical form of a filter.

- `filter`: as in insights_count; NULL and '''' have the form ''''

SQLSTATE 22023 as in insights_count if it is wrong: to check filters before they are used.';

revoke all on function @mlflow@.insights_validate(text) from public;
grant execute on function @mlflow@.insights_validate(text) to public;
