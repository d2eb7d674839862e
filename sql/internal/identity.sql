-- A restored database is another one: its transactions have other numbers, so nothing
-- can be caught up with there.
create or replace function insights.identity() returns text
language sql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $sql$
select
    (select s.system_identifier from pg_control_system() s)
    || ' ' || concat_ws(
        ' ',
        to_regclass('@mlflow@.trace_info')::oid,
        to_regclass('@mlflow@.spans')::oid,
        to_regclass('@mlflow@.trace_tags')::oid,
        to_regclass('@mlflow@.trace_request_metadata')::oid,
        to_regclass('@mlflow@.assessments')::oid,
        to_regclass('@mlflow@.entity_associations')::oid
    )
$sql$;

comment on function insights.identity() is
    'The cluster and MLflow''s tables, as they are known by their numbers';

revoke all on function insights.identity() from public;
grant execute on function insights.identity() to public;
