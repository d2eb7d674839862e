-- TRUNCATE shows no rows, so it counts as something missed.  It is not for
-- MLflow, which deletes traces by DELETE.
create or replace function insights.note_truncate() returns trigger
language plpgsql
volatile
parallel unsafe
security definer
set search_path = pg_catalog, pg_temp
as $plpgsql$
begin
    perform insights.note_missed();
    return null;
exception when others then
    return null;
end
$plpgsql$;

comment on function insights.note_truncate() is
    'Trigger: counts in insights.missed that a table was emptied';

revoke all on function insights.note_truncate() from public;
