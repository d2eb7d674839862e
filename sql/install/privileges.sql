-- Who may read the index, who may write it, and who notes what changes.
--
-- Two roles belong to this database alone; roles are the cluster's, so the database's name
-- is in theirs.  A clone of the database goes on with the roles of the original.
--
-- insights_reader_DATABASE  members read the index. They have to be trusted with every
--                           trace: the index is made of all of them.
-- insights_note_DATABASE    owns the trigger function on MLflow's tables, has no members,
--                           and may do one thing: add a note to insights.pending, or count
--                           that it could not.
do $do$
declare
    writers constant name[] := array[
        'insights_refresh', 'insights_rebuild', 'insights_verify', 'build_batch',
        'run_refresh', 'run_rebuild', 'run_verify', 'run_build_batch',
        'try_commit'
    ];
    written constant name[] := array[
        'block', 'trace', 'signature', 'term', 'vocabulary', 'posting', 'cells', 'sessions',
        'carrier', 'pending', 'state', 'lease'
    ];
    roles record;
    mlflow_schema oid;
    mlflow_owner oid;
    grantee name;
    one text;
begin
    select c.relnamespace, c.relowner
    into strict mlflow_schema, mlflow_owner
    from pg_catalog.pg_class c
    where c.oid = '@mlflow@.trace_info'::pg_catalog.regclass;

    insert into insights.installation (mlflow_schema, created_extensions, bundle)
    select n.nspname, '{}', ''
    from pg_catalog.pg_namespace n
    where n.oid = mlflow_schema
    on conflict do nothing;
    update insights.installation i
    set
        reader_role = coalesce(i.reader_role, insights.role_name('reader')),
        note_role = coalesce(i.note_role, insights.role_name('note'))
    returning i.reader_role, i.note_role into strict roles;

    foreach one in array array[roles.reader_role, roles.note_role] loop
        if not exists (select from pg_catalog.pg_roles r where r.rolname = one) then
            execute format('create role %I nologin', one);
        elsif exists (
            select from pg_catalog.pg_roles r
            where r.rolname = one
            and (
                r.rolcanlogin or r.rolsuper or r.rolcreaterole or r.rolcreatedb
                or r.rolreplication or r.rolbypassrls
            )
        ) or (
            one = roles.note_role
            and exists (
                select from pg_catalog.pg_auth_members m
                where one::pg_catalog.regrole in (m.roleid, m.member)
            )
        ) then
            raise exception using
                errcode = 'duplicate_object',
                message = format('role %s exists and is more than a group', one),
                hint = 'The installation makes this role for itself. Rename or drop the one there.';
        end if;
    end loop;
    execute format(
        'comment on role %I is %L',
        roles.reader_role,
        format('May read the index of MLflow''s traces in database %s', current_database())
    );
    execute format(
        'comment on role %I is %L',
        roles.note_role,
        format('Owns the triggers that note changed traces in database %s', current_database())
    );

    -- Plain grants and no policies: with row security on these tables, pg_dump would fail
    -- for the owner of MLflow's tables.
    for one in
        select c.oid::pg_catalog.regclass
        from pg_catalog.pg_class c
        where c.relnamespace = 'insights'::pg_catalog.regnamespace
        and c.relkind in ('r', 'v', 'S')
        and c.relname not in ('alembic_version', 'installation')
    loop
        execute format('revoke all on %s from public', one);
    end loop;
    execute format('grant usage on schema insights to %I', roles.note_role);
    execute format('grant insert on insights.pending to %I', roles.note_role);
    execute format('grant usage on sequence insights.missed to %I', roles.note_role);
    for one in
        select p.oid::pg_catalog.regprocedure
        from pg_catalog.pg_proc p
        where p.pronamespace = 'insights'::pg_catalog.regnamespace
        and p.proname in ('note_change', 'note_missed')
    loop
        execute format('alter function %s owner to %I', one, roles.note_role);
    end loop;

    execute format('grant select on all tables in schema insights to %I', roles.reader_role);
    execute format('grant select on all sequences in schema insights to %I', roles.reader_role);

    for grantee in
        select r.rolname
        from pg_catalog.pg_roles r
        where not r.rolsuper
        and (r.rolname = 'insights_writer' or r.oid = mlflow_owner)
    loop
        if not pg_catalog.pg_has_role(grantee, roles.reader_role, 'member') then
            execute format('grant %I to %I', roles.reader_role, grantee);
        end if;
        -- And to the role itself, which may not inherit what its groups may do.
        execute format('grant select on all tables in schema insights to %I', grantee);
        execute format('grant select, usage, update on all sequences in schema insights to %I', grantee);
        foreach one in array written loop
            execute format('grant insert, update, delete on insights.%I to %I', one, grantee);
        end loop;
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
