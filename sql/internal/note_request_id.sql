-- For tables that name the trace in request_id; the rules are in note_trace_id.
create or replace function insights.note_request_id() returns trigger
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
        select min(n.request_id), max(n.request_id)
        into least_id, greatest_id
        from new_rows n;
    elsif tg_op = 'DELETE' then
        select min(o.request_id), max(o.request_id)
        into least_id, greatest_id
        from old_rows o;
    else
        select min(c.request_id), max(c.request_id)
        into least_id, greatest_id
        from (
            select o.request_id
            from old_rows o
            union all
            select n.request_id
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
        select distinct n.request_id
        from new_rows n;
    elsif tg_op = 'DELETE' then
        insert into insights.pending (trace_id)
        select distinct o.request_id
        from old_rows o;
    else
        insert into insights.pending (trace_id)
        select o.request_id
        from old_rows o
        union
        select n.request_id
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

comment on function insights.note_request_id() is
    'Trigger: notes the traces of a changed table whose column request_id names them';

revoke all on function insights.note_request_id() from public;
