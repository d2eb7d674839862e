-- For tables that name the trace in request_id; the rules are in note_trace_id.
create or replace function insights.note_request_id() returns trigger
language plpgsql
volatile
parallel unsafe
security definer
set search_path = pg_catalog, pg_temp
as $plpgsql$
declare
    noted text;
begin
    if array[coalesce(new.request_id, old.request_id), coalesce(old.request_id, new.request_id)]::text[]
        <@ ('{' || current_setting('insights.noted', true) || '}')::text[]
    then
        return null;
    end if;

    lock table insights.pending in row exclusive mode nowait;
    insert into insights.pending (trace_id) values (coalesce(new.request_id, old.request_id));
    if old.request_id <> new.request_id then
        insert into insights.pending (trace_id) values (old.request_id);
    end if;
    -- Statements that go back and forth between some traces note each of them once;
    -- looking through a long list would take longer than noting.
    noted := current_setting('insights.noted', true);
    noted := set_config(
        'insights.noted',
        case when length(noted) between 1 and 1000 then noted || ',' else '' end
            || '"' || replace(replace(coalesce(new.request_id, old.request_id), '\', '\\'), '"', '\"') || '"',
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

comment on function insights.note_request_id() is
    'Trigger: notes the trace of a changed row whose column request_id names it';

revoke all on function insights.note_request_id() from public;
