-- Notes which traces a statement of MLflow's has changed, and nothing else.
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
-- insights.noted is the trace that was noted last; it ends with the transaction,
-- is rolled back with its savepoints, and insights.forget_noted resets it.
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
    least_id text;
    greatest_id text;
begin
    if tg_op = 'INSERT' then
        select min(n.trace_id), max(n.trace_id)
        into least_id, greatest_id
        from new_rows n;
    elsif tg_op = 'DELETE' then
        select min(o.trace_id), max(o.trace_id)
        into least_id, greatest_id
        from old_rows o;
    else
        select min(c.trace_id), max(c.trace_id)
        into least_id, greatest_id
        from (
            select o.trace_id
            from old_rows o
            union all
            select n.trace_id
            from new_rows n
        ) c;
    end if;
    if least_id is null
        or least_id = greatest_id and least_id = current_setting('insights.noted', true)
    then
        return null;
    end if;

    lock table insights.pending in row exclusive mode nowait;
    if least_id = greatest_id then
        insert into insights.pending (trace_id) values (least_id);
        perform set_config('insights.noted', least_id, true);
    elsif tg_op = 'INSERT' then
        insert into insights.pending (trace_id)
        select distinct n.trace_id
        from new_rows n;
    elsif tg_op = 'DELETE' then
        insert into insights.pending (trace_id)
        select distinct o.trace_id
        from old_rows o;
    else
        insert into insights.pending (trace_id)
        select o.trace_id
        from old_rows o
        union
        select n.trace_id
        from new_rows n;
    end if;
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
    'Trigger: notes the traces of a changed table whose column trace_id names them';

revoke all on function insights.note_trace_id() from public;
