-- The only wait here is for somebody who alters the sequence, and it is short.  The
-- limit is here and not in the triggers because setting it takes as long as noting.
create or replace function insights.note_missed() returns void
language plpgsql
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $plpgsql$
begin
    perform nextval('insights.missed');
end
$plpgsql$;

comment on function insights.note_missed() is
    'Counts a change that could not be noted; for the triggers only';

revoke all on function insights.note_missed() from public;
