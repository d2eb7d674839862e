-- Runs a query of the engine's so that PostgreSQL may use parallel workers,
-- which it never does for the prepared plans of PL/Python.  Rows come as arrays
-- of text; the query finds its parameters in the array $1.
--
-- Where the tables are small, or nobody has counted them yet, the planner takes
-- every set for a row or two and joins them by nested loops, which then run for
-- minutes.  There hashing costs milliseconds at the most, so it has to hash.
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
set enable_nestloop = on
as $plpgsql$
begin
    if exists (
        select from pg_class c
        where c.oid in ('@mlflow@.trace_info'::regclass, '@mlflow@.spans'::regclass)
        and c.relpages < 1000
    ) then
        -- Until the function returns, thanks to its SET clause.
        perform set_config('enable_nestloop', 'off', true);
    end if;
    return query execute query using args;
end
$plpgsql$;

comment on function insights.parallel_rows(text, text[]) is
    'Runs a query, in parallel where that pays, with its parameters in one array';

revoke all on function insights.parallel_rows(text, text[]) from public;
grant execute on function insights.parallel_rows(text, text[]) to public;
