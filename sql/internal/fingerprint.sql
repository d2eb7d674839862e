-- What the catalogue says of the triggers on MLflow's tables, of those tables, their columns
-- and indexes, as a text.  Every change gives a row of the catalogue a new xmin, so this tells
-- also what has been undone since: a trigger that was disabled and enabled again.
--
-- Asked by every reader of the index whenever some transaction has ended since it asked
-- before, so in PL/pgSQL, which keeps the plan.  That plan does not know how few tables will
-- be asked about, and would read all of pg_class and pg_index for them.
create or replace function insights.fingerprint() returns text
language plpgsql
stable
parallel safe
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $plpgsql$
declare
    tables oid[] := array[
        to_regclass('@mlflow@.trace_info'),
        to_regclass('@mlflow@.spans'),
        to_regclass('@mlflow@.trace_tags'),
        to_regclass('@mlflow@.trace_request_metadata'),
        to_regclass('@mlflow@.assessments'),
        to_regclass('@mlflow@.entity_associations')
    ];
begin
    -- Triggers of partitions can be disabled by themselves.
    if exists (select from pg_class c where c.oid = any (tables) and c.relkind = 'p') then
        tables := array(
            select t.oid from unnest(tables) t (oid)
            union
            select p.relid from unnest(tables) t (oid) cross join lateral pg_partition_tree(t.oid) p
        );
    end if;
    return
        (
            select string_agg(
                concat(c.oid, ':', c.relfilenode, c.relkind, case when c.relhassubclass then '+' end),
                ' ' order by c.oid
            )
            from pg_class c
            where c.oid = any (tables)
        )
        || ' triggers '
        || (
            select concat(count(*), ':', sum(t.oid::bigint), ':', sum(t.xmin::text::bigint))
            from pg_trigger t
            where t.tgrelid = any (tables)
            and t.tgname in ('insights_change', 'insights_truncate')
        )
        || ' columns '
        || (
            select concat(count(*), ':', sum(a.xmin::text::bigint))
            from pg_attribute a
            where a.attrelid = any (tables)
            and a.attnum > 0
        )
        -- Not for the index: for what insights.foreign_code looks at.
        || ' indexes '
        || (
            select concat(count(*), ':', sum(i.indexrelid::bigint))
            from pg_index i
            where i.indrelid = any (tables)
        )
        || ' statistics '
        || (
            select concat(count(*), ':', sum(s.oid::bigint))
            from pg_statistic_ext s
            where s.stxrelid = any (tables)
        );
end
$plpgsql$;

comment on function insights.fingerprint() is
    'What the catalogue says of triggers, tables and columns; changes with each of them. NULL: no table is there';

revoke all on function insights.fingerprint() from public;
grant execute on function insights.fingerprint() to public;
