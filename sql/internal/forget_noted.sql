-- Whoever takes notes away in a transaction that has written some (a refresh right
-- after a change) must not keep later changes from being noted.
create or replace function insights.forget_noted() returns trigger
language plpgsql
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
as $plpgsql$
begin
    perform set_config('insights.noted', '', true);
    return null;
end
$plpgsql$;

comment on function insights.forget_noted() is
    'Trigger: lets every trace be noted again, in this transaction';

revoke all on function insights.forget_noted() from public;
