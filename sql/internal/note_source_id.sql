-- For entity_associations, where some of the sources are traces; the rules are in
-- note_trace_id.
create or replace function insights.note_source_id() returns trigger
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
        select min(n.source_id), max(n.source_id)
        into least_id, greatest_id
        from new_rows n
        where n.source_type = 'trace';
    elsif tg_op = 'DELETE' then
        select min(o.source_id), max(o.source_id)
        into least_id, greatest_id
        from old_rows o
        where o.source_type = 'trace';
    else
        select min(c.source_id), max(c.source_id)
        into least_id, greatest_id
        from (
            select o.source_id
            from old_rows o
            where o.source_type = 'trace'
            union all
            select n.source_id
            from new_rows n
            where n.source_type = 'trace'
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
        select distinct n.source_id
        from new_rows n
        where n.source_type = 'trace';
    elsif tg_op = 'DELETE' then
        insert into insights.pending (trace_id)
        select distinct o.source_id
        from old_rows o
        where o.source_type = 'trace';
    else
        insert into insights.pending (trace_id)
        select o.source_id
        from old_rows o
        where o.source_type = 'trace'
        union
        select n.source_id
        from new_rows n
        where n.source_type = 'trace';
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

comment on function insights.note_source_id() is
    'Trigger: notes the traces among the sources of changed associations';

revoke all on function insights.note_source_id() from public;
