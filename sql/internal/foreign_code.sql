-- What the owner of MLflow's tables has put behind them that would run with the rights of
-- whoever reads them through this project: SQL over a column of a type of their own calls
-- their casts and operators, a view in place of a table its functions.
--
-- PostgreSQL may also call the functions in indexes, statistics and row security when it
-- plans or runs any query.  To a reader this happens with every query on these tables;
-- here it counts for superusers, and for whoever keeps the index up to date without being the
-- owner, who holds locks under which none of the first kind can come (refresh.py).
create or replace function insights.foreign_code(writing boolean default false) returns text
language plpgsql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $plpgsql$
declare
    tables constant oid[] := array[
        to_regclass('@mlflow@.trace_info'),
        to_regclass('@mlflow@.spans'),
        to_regclass('@mlflow@.trace_tags'),
        to_regclass('@mlflow@.trace_request_metadata'),
        to_regclass('@mlflow@.assessments'),
        to_regclass('@mlflow@.entity_associations')
    ];
    -- What is read of them (insights_py/contract.py), of whichever table.
    used constant name[] := array[
        'aggregate_value', 'assessment_id', 'assessment_metadata', 'assessment_type',
        'cache_creation_input_tokens', 'cache_creation_input_tokens_above_1hr',
        'cache_read_input_tokens', 'client_request_id', 'content', 'created_timestamp',
        'destination_id', 'destination_type', 'duration_ns', 'error',
        'execution_time_ms', 'experiment_id', 'input_cost', 'input_tokens',
        'is_numeric_value', 'key', 'last_updated_timestamp', 'name', 'output_cost',
        'output_tokens', 'overrides', 'rationale', 'request_id', 'request_preview',
        'response_preview', 'run_id', 'session_id', 'source_id', 'source_type',
        'span_id', 'status', 'timestamp_ms', 'total_cost', 'total_tokens', 'trace_id',
        'trace_name', 'type', 'valid', 'value'
    ];
    found text;
begin
    select format('%s is not a table', c.oid::regclass)
    into found
    from pg_class c
    where c.oid = any (tables)
    and c.relkind not in ('r', 'p')
    limit 1;
    if found is not null then
        return found;
    end if;

    select format('column %s of table %s has type %s', quote_ident(a.attname), c.oid::regclass, t.oid::regtype)
    into found
    from pg_class c
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join pg_type t on t.oid = a.atttypid
    where c.oid = any (tables)
    and a.attname = any (used)
    and t.typnamespace <> 'pg_catalog'::regnamespace
    limit 1;
    if found is not null then
        return found;
    end if;

    if exists (
        select from pg_class c
        join pg_roles r on r.oid = c.relowner
        where c.oid = to_regclass('@mlflow@.trace_info')
        and r.rolname = current_user
    ) or not (
        writing
        or exists (select from pg_roles r where r.rolname = current_user and r.rolsuper)
    ) then
        return null;
    end if;

    -- pg_depend leaves out what PostgreSQL itself brings along.
    select pg_describe_object(d.classid, d.objid, 0) || ' uses '
        || pg_describe_object(d.refclassid, d.refobjid, 0)
    into found
    from pg_depend d
    where d.refclassid in (
        'pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass, 'pg_opclass'::regclass,
        'pg_opfamily'::regclass, 'pg_cast'::regclass, 'pg_collation'::regclass
    )
    and (
        d.classid = 'pg_class'::regclass
        and d.objid in (select i.indexrelid from pg_index i where i.indrelid = any (tables))
        or d.classid = 'pg_policy'::regclass
        and d.objid in (select p.oid from pg_policy p where p.polrelid = any (tables))
        or d.classid = 'pg_statistic_ext'::regclass
        and d.objid in (select s.oid from pg_statistic_ext s where s.stxrelid = any (tables))
    )
    limit 1;
    return found;
end
$plpgsql$;

comment on function insights.foreign_code(boolean) is
    'What of MLflow''s tables would run code of their owner''s with the caller''s rights; NULL: nothing. writing: for '
    'whoever keeps the index up to date';

revoke all on function insights.foreign_code(boolean) from public;
grant execute on function insights.foreign_code(boolean) to public;
