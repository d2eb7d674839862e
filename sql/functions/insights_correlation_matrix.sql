-- shim: correlation_matrix
-- overloads: exp_ids int[], exp_ids text
create or replace function @mlflow@.insights_correlation_matrix(
    exp_ids text[],
    filters text[],
    base_filter text default null,
    unit text default 'trace'
)
returns table (
    filter1_number int,
    filter2_number int,
    filter1 text,
    filter2 text,
    @columns:insights_correlate@
)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select
    r.filter1_number,
    r.filter2_number,
    r.filter1,
    r.filter2,
    r.@columns:insights_correlate@
from insights.run_correlation_matrix(exp_ids, filters, base_filter, unit) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_correlation_matrix(text[], text[], text, text) is
    'Each two of several filters as insights_correlate has them, found in one pass: a row per pair.

- `exp_ids`, `base_filter`, `unit`: as in insights_correlate
- `filters`: 2 to 50 filters; each may be NULL, which matches every trace
- `filter1_number`, `filter2_number`: the places of the two in the array, from 1; the first is the smaller
- `filter1`, `filter2`: the filters as they were given

The other columns are those of insights_correlate. SQLSTATE 22023 as in insights_count (the message names the number of
the filter), and for another number of filters.';

revoke all on function @mlflow@.insights_correlation_matrix(text[], text[], text, text) from public;
grant execute on function @mlflow@.insights_correlation_matrix(text[], text[], text, text) to public;
