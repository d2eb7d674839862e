-- A name has room for 63 bytes.
create or replace function insights.role_name(kind text) returns name
language sql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $sql$
select
    case
        when octet_length(n.full_name) < 64 then n.full_name
        -- Casting to a name cuts between characters.
        else left(n.full_name::name::text, 20) || '_' || md5(n.full_name)
    end::name
from (select 'insights_' || kind || '_' || current_database() as full_name) n
$sql$;

comment on function insights.role_name(text) is
    'The name of a role of this database: reader or note';

revoke all on function insights.role_name(text) from public;
grant execute on function insights.role_name(text) to public;
