-- shim: explain
-- overloads: exp_ids int[], exp_ids text
-- VOLATILE because PostgreSQL runs EXPLAIN in no other function; it changes nothing.
create or replace function @mlflow@.insights_explain(
    exp_ids text[],
    filter text default null
)
returns table (
    step text,
    detail text
)
language sql
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select
    r.step,
    r.detail
from insights.run_explain(exp_ids, filter) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_explain(text[], text) is
    'How a filter is understood and answered.

- `exp_ids`, `filter`: as in insights_count

A row says:

- `step`: ''filter'' (the canonical form), ''predicate'' (a part of it), ''index'' (whether it is used), ''vocabulary'',
  ''bounds'' (how many traces must match, and how many may), ''residue'' (how many exact SQL rechecks, pending ones
  included), ''left out'' (of how many the spans cannot be read, as they are archived), ''sql'' and
  ''parameter'' (the exact SQL, which would answer without the index), ''plan'' (PostgreSQL''s for it)
- `detail`: a line of text about it

It changes nothing, and is VOLATILE only because PostgreSQL runs EXPLAIN in no other function. SQLSTATE 22023 as in
insights_count.';

revoke all on function @mlflow@.insights_explain(text[], text) from public;
grant execute on function @mlflow@.insights_explain(text[], text) to public;
