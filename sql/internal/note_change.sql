-- Notes which trace a row of MLflow's belongs to that a statement has changed, and
-- nothing else.  The trigger's argument names the column that says which trace.
--
-- The triggers on TRUNCATE have no argument, as that shows no rows, so it counts as something
-- missed.  It is not for MLflow, which deletes traces by DELETE.
--
-- The statement must never fail or wait because of it.  So it takes a lock only
-- where it can have it at once, and catches every error: what cannot be noted is
-- counted in insights.missed, which no transaction holds back and no rollback
-- undoes, and readers then leave the index alone until a refresh has caught up.
-- What cannot even be counted is let go: the sequence is then missing, and with it
-- readers fail or do without the index.  Two errors get through: the user's own
-- cancelling, and a serialization failure, with which PostgreSQL ends a transaction
-- that cannot be committed anyway.
--
-- A trace that this transaction has noted already is not noted again: the primary key
-- of insights.pending says so, and no other transaction writes notes with this number,
-- so nobody is waited for.
--
-- For each row, because a table of the rows that a statement has changed takes longer
-- to be made than these calls, and copies the contents of spans.  No WHEN and no
-- UPDATE OF: with these MLflow's migrations could neither drop the column nor change
-- its type.
--
-- SECURITY DEFINER because MLflow's role may write its own tables only.  The owner of
-- those tables chooses the types of their columns, so format() turns values into text,
-- by output functions, which only superusers can create.  A cast or an operator could
-- be the table owner's, and would run here with this function's rights.
create or replace function insights.note_change() returns trigger
language plpgsql
volatile
parallel unsafe
security definer
set search_path = pg_catalog, pg_temp
as $plpgsql$
declare
    old_id text;
    new_id text;
begin
    case tg_argv[0]
        when 'request_id' then
            old_id := case when old.request_id is not null then format('%s', old.request_id) end;
            new_id := case when new.request_id is not null then format('%s', new.request_id) end;
        when 'trace_id' then
            old_id := case when old.trace_id is not null then format('%s', old.trace_id) end;
            new_id := case when new.trace_id is not null then format('%s', new.trace_id) end;
        when 'source_id' then
            -- Some of the sources of associations are traces.
            if format('%s', old.source_type) = 'trace' then
                old_id := case when old.source_id is not null then format('%s', old.source_id) end;
            end if;
            if format('%s', new.source_type) = 'trace' then
                new_id := case when new.source_id is not null then format('%s', new.source_id) end;
            end if;
            if coalesce(new_id, old_id) is null then
                return null;
            end if;
        else
            -- Counted below, after the columns, so that rows pay nothing for it.
            raise case_not_found;
    end case;

    lock table insights.pending in row exclusive mode nowait;
    insert into insights.pending (trace_id) values (coalesce(new_id, old_id)) on conflict do nothing;
    if old_id <> new_id then
        insert into insights.pending (trace_id) values (old_id) on conflict do nothing;
    end if;
    return null;
exception
    when serialization_failure then
        raise;
    when others then
        begin
            perform insights.note_missed();
            return null;
        exception when others then
            return null;
        end;
end
$plpgsql$;

comment on function insights.note_change() is
    'Trigger: notes the trace of a changed row; its argument is the column that names the trace. Without one, for TRUNCATE, counts in insights.missed';

revoke all on function insights.note_change() from public;
