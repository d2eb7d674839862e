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
    noted text;
    old_id text;
    new_id text;
begin
    if old.source_type = 'trace' then
        old_id := old.source_id;
    end if;
    if new.source_type = 'trace' then
        new_id := new.source_id;
    end if;
    if coalesce(new_id, old_id) is null then
        return null;
    end if;
    if array[coalesce(new_id, old_id), coalesce(old_id, new_id)]
        <@ ('{' || current_setting('insights.noted', true) || '}')::text[]
    then
        return null;
    end if;

    lock table insights.pending in row exclusive mode nowait;
    insert into insights.pending (trace_id) values (coalesce(new_id, old_id));
    if old_id <> new_id then
        insert into insights.pending (trace_id) values (old_id);
    end if;
    -- Statements that go back and forth between some traces note each of them once;
    -- looking through a long list would take longer than noting.
    noted := current_setting('insights.noted', true);
    noted := set_config(
        'insights.noted',
        case when length(noted) between 1 and 1000 then noted || ',' else '' end
            || '"' || replace(replace(coalesce(new_id, old_id), '\', '\\'), '"', '\"') || '"',
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

comment on function insights.note_source_id() is
    'Trigger: notes the trace that is the source of a changed association';

revoke all on function insights.note_source_id() from public;
