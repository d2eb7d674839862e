-- The index holds values of MLflow's tables.  So a role sees rows of it if, and
-- only if, it may read those tables.  Superusers, the role that owns those tables,
-- and the role insights_writer, if there is one, keep the index up to date.
do $do$
declare
    index_tables constant name[] := array[
        'block', 'trace', 'signature', 'term', 'vocabulary', 'posting', 'cells', 'sessions',
        'carrier', 'pending', 'state'
    ];
    writers constant name[] := array[
        'insights_refresh', 'insights_rebuild', 'insights_verify', 'build_batch',
        'run_refresh', 'run_rebuild', 'run_verify', 'run_build_batch',
        'try_commit'
    ];
    mlflow_schema oid;
    mlflow_owner oid;
    grantee name;
    one text;
begin
    select c.relnamespace, c.relowner
    into strict mlflow_schema, mlflow_owner
    from pg_catalog.pg_class c
    where c.oid = '@mlflow@.trace_info'::pg_catalog.regclass;

    foreach one in array index_tables loop
        execute format('grant select on insights.%I to public', one);
        execute format('alter table insights.%I enable row level security', one);
        execute format('drop policy if exists readers_of_traces on insights.%I', one);
        -- As a subquery it is asked once a statement, not once a row.
        execute format(
            'create policy readers_of_traces on insights.%I'
            ' using ((select insights.may_read())) with check (true)',
            one
        );
    end loop;
    grant select on sequence insights.missed to public;

    for grantee in
        select r.rolname
        from pg_catalog.pg_roles r
        where not r.rolsuper
        and (r.rolname = 'insights_writer' or r.oid = mlflow_owner)
    loop
        foreach one in array index_tables loop
            execute format('grant insert, update, delete on insights.%I to %I', one, grantee);
        end loop;
        execute format('grant usage, update on sequence insights.missed to %I', grantee);
        for one in
            select p.oid::pg_catalog.regprocedure
            from pg_catalog.pg_proc p
            where p.pronamespace in (mlflow_schema, 'insights'::pg_catalog.regnamespace)
            and p.proname = any (writers)
        loop
            execute format('grant execute on routine %s to %I', one, grantee);
        end loop;
    end loop;
end
$do$;
