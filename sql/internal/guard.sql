create or replace function insights.guard(writing boolean default false) returns boolean
language plpgsql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $plpgsql$
declare
    found constant text := insights.foreign_code(writing);
begin
    if found is not null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'MLflow''s tables would run code of their owner: ' || found,
            hint = 'As the owner of these tables it would run anyway: use that role. '
                || 'MLflow''s own tables have built-in types and functions only.';
    end if;
    return true;
end
$plpgsql$;

comment on function insights.guard(boolean) is
    'True, or an error 55000 where insights.foreign_code finds something';

revoke all on function insights.guard(boolean) from public;
grant execute on function insights.guard(boolean) to public;
