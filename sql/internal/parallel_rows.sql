-- Runs a query of the engine's so that PostgreSQL may use parallel workers,
-- which it never does for the prepared plans of PL/Python.  Rows come as arrays
-- of text; the query finds its parameters in the array $1.
--
-- The caller's rights apply, and a STABLE function can run no command that
-- writes: whoever calls this can do nothing that they could not do anyway.
create or replace function insights.parallel_rows(query text, args text[]) returns setof text[]
language plpgsql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
set extra_float_digits = 1
as $plpgsql$
begin
    return query execute query using args;
end
$plpgsql$;

comment on function insights.parallel_rows(text, text[]) is
    'Runs a query, in parallel where that pays, with its parameters in one array';

revoke all on function insights.parallel_rows(text, text[]) from public;
grant execute on function insights.parallel_rows(text, text[]) to public;
