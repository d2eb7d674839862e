-- Large tables are not counted but estimated, so that asking costs milliseconds.
create or replace function @mlflow@.insights_status(
    out built boolean,
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
    case when a.visible then p.traces end,
    case when a.visible then greatest(extract(epoch from statement_timestamp() - p.oldest), 0) end,
    s.missed,
    case when a.visible then b.traces end,
    case when a.visible then b.blocks end,
    case
        when not a.visible then null
        when pg_relation_size('insights.term') < 2 ^ 24 then (select count(*) from insights.term)
        else (select c.reltuples from pg_class c where c.oid = 'insights.term'::regclass)
    end,
    case
        when not a.visible then null
        when pg_relation_size('insights.posting') < 2 ^ 24
            then (select count(*) from insights.posting)
        else (select c.reltuples from pg_class c where c.oid = 'insights.posting'::regclass)
    end,
    size.index_bytes,
    size.mlflow_bytes,
    size.index_bytes / nullif(size.mlflow_bytes, 0)::double precision
-- Row-level security leaves others no rows to count, and 0 would read as up to date.
from (select exists (select from insights.state)) a (visible)
cross join (
    select
        count(distinct n.trace_id) as traces,
        min(n.noted_at) as oldest
    from (select p.trace_id, p.noted_at from insights.pending p limit 1000000) n
) p
cross join (
    select
        coalesce(sum(b.live_count), 0) as traces,
        count(*) as blocks
    from insights.block b
) b
cross join (
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
left join (
    select
        s.built,
        greatest(m.last_value - s.trusted, 0) as missed
    from insights.state s, insights.missed m
) s on true
$sql$;

comment on function @mlflow@.insights_status() is
    'The state of the index. One row, in milliseconds however large the index is.

- `built`: until then the index is not used
- `pending`: changed traces that are not indexed yet; only a million changes are looked at.
  Calls ask MLflow''s tables about each of them, or about all traces where they are many: insights_explain says which
- `lag_seconds`: for how long the oldest of them has been pending
- `missed`: changes that could not be noted; if there are any, the index is not used until insights_rebuild
- `traces`, `blocks`, `terms`, `postings`: what is in it; the last two are estimated where they are many
- `index_bytes`, `mlflow_bytes`, `index_share`: its size on disk, that of MLflow''s trace tables, and the ratio of the two

NULL, but for the sizes, for roles that may not read MLflow''s tables.';

revoke all on function @mlflow@.insights_status() from public;
grant execute on function @mlflow@.insights_status() to public;
