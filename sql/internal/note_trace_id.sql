-- Notes which trace a row of MLflow's belongs to that a statement has changed, and
-- nothing else.
--
-- The statement must never fail or wait because of it.  So it takes a lock only
-- where it can have it at once, and catches every error: what cannot be noted is
-- counted in insights.missed, which no transaction holds back and no rollback
-- undoes, and readers then leave the index alone.  What cannot even be counted is
-- let go: the sequence is then missing, and with it readers fail or do without
-- the index.  Only the user's own cancelling gets through, as it has to.
--
-- MLflow changes a trace by several statements of a transaction; one note of it is
-- enough, since nobody sees it before the transaction ends.  The setting
-- insights.noted lists what has been noted, the latest traces at least, as the
-- elements of an array are written.  It ends with the transaction, is rolled back
-- with its savepoints, and insights.forget_noted resets it.  Most calls end there, so
-- that is a single expression.
--
-- For each row, because a table of the rows that a statement has changed takes longer
-- to be made than these calls, and copies the contents of spans.  No WHEN and no
-- UPDATE OF: with these MLflow's migrations could neither drop the column nor change
-- its type.
--
-- SECURITY DEFINER because MLflow's role may write its own tables only.
create or replace function insights.note_trace_id() returns trigger
language plpgsql
volatile
parallel unsafe
security definer
set search_path = pg_catalog, pg_temp
as $plpgsql$
declare
    noted text;
begin
    if array[coalesce(new.trace_id, old.trace_id), coalesce(old.trace_id, new.trace_id)]::text[]
        <@ ('{' || current_setting('insights.noted', true) || '}')::text[]
    then
        return null;
    end if;

    lock table insights.pending in row exclusive mode nowait;
    insert into insights.pending (trace_id) values (coalesce(new.trace_id, old.trace_id));
    if old.trace_id <> new.trace_id then
        insert into insights.pending (trace_id) values (old.trace_id);
    end if;
    -- Statements that go back and forth between some traces note each of them once;
    -- looking through a long list would take longer than noting.
    noted := current_setting('insights.noted', true);
    noted := set_config(
        'insights.noted',
        case when length(noted) between 1 and 1000 then noted || ',' else '' end
            || '"' || replace(replace(coalesce(new.trace_id, old.trace_id), '\', '\\'), '"', '\"') || '"',
        true
    );
    return null;
exception when others then
    begin
        perform insights.note_missed();
        return null;
    exception when others then
        return null;
    end;
end
$plpgsql$;

comment on function insights.note_trace_id() is
    'Trigger: notes the trace of a changed row whose column trace_id names it';

revoke all on function insights.note_trace_id() from public;
