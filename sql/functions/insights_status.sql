-- Large tables are not counted but estimated, so that asking costs milliseconds.
create or replace function @mlflow@.insights_status(
    out built boolean,
    out usable boolean,
    out unwatched text,
    out pending bigint,
    out lag_seconds double precision,
    out missed bigint,
    out traces bigint,
    out blocks bigint,
    out terms bigint,
    out postings bigint,
    out index_bytes bigint,
    out mlflow_bytes bigint,
    out index_share double precision
)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select
    s.built,
    s.usable,
    s.unwatched,
    s.pending,
    s.lag_seconds,
    s.missed,
    s.traces,
    s.blocks,
    s.terms,
    s.postings,
    size.index_bytes,
    size.mlflow_bytes,
    size.index_bytes / nullif(size.mlflow_bytes, 0)::double precision
from (
    select
        (
            select sum(pg_total_relation_size(c.oid))
            from pg_class c
            where c.relnamespace = 'insights'::regnamespace
            and c.relkind = 'r'
        )::bigint as index_bytes,
        (
            select sum(pg_total_relation_size(to_regclass('@mlflow@.' || name)))
            from unnest(array[
                'trace_info', 'spans', 'trace_tags', 'trace_request_metadata', 'assessments',
                'entity_associations'
            ]) name
        )::bigint as mlflow_bytes
) size
left join lateral (
    select *
    from insights.index_status()
    -- Nothing of it is asked for those who may not see it.
    where has_table_privilege('insights.state', 'select')
) s on true
$sql$;

comment on function @mlflow@.insights_status() is
    'The state of the index. One row, in milliseconds however large the index is.

- `built`: whether the index has been built
- `usable`: whether it answers; where it does not, MLflow''s tables do, as exactly and slower
- `unwatched`: which trigger is missing or changed, so that changes go unnoticed: insights install makes it anew
- `pending`: changed traces that are not indexed yet; only a million changes are looked at
- `lag_seconds`: for how long the oldest of them has been pending
- `missed`: changes that could not be noted; if there are any, the index is not used until insights_refresh has caught
  up with them
- `traces`, `blocks`, `terms`, `postings`: what is in it; the last two are estimated where they are many
- `index_bytes`, `mlflow_bytes`, `index_share`: its size on disk, that of MLflow''s trace tables, and the ratio of the two

NULL, but for the sizes, for roles that may not read the index.';

revoke all on function @mlflow@.insights_status() from public;
grant execute on function @mlflow@.insights_status() to public;
