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
    filter1_count bigint,
    filter2_count bigint,
    joint_count bigint,
    total_count bigint,
    npmi double precision,
    npmi_smoothed double precision,
    lift double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    test text
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
    r.filter1_count,
    r.filter2_count,
    r.joint_count,
    r.total_count,
    r.npmi,
    r.npmi_smoothed,
    r.lift,
    r.phi,
    r.odds_ratio,
    r.odds_ratio_low,
    r.odds_ratio_high,
    r.p_value,
    r.test
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

-- The others take the ids as numbers or as one text.  They have no SET
-- clause and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_correlation_matrix(
    exp_ids int[],
    filters text[],
    base_filter text default null,
    unit text default 'trace'
)
returns table (
    filter1_number int,
    filter2_number int,
    filter1 text,
    filter2 text,
    filter1_count bigint,
    filter2_count bigint,
    joint_count bigint,
    total_count bigint,
    npmi double precision,
    npmi_smoothed double precision,
    lift double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    test text
)
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_correlation_matrix(exp_ids::pg_catalog.text[], filters, base_filter, unit)
$sql$;

comment on function @mlflow@.insights_correlation_matrix(int[], text[], text, text) is
    'As insights_correlation_matrix of text[], with ids as numbers';

revoke all on function @mlflow@.insights_correlation_matrix(int[], text[], text, text) from public;
grant execute on function @mlflow@.insights_correlation_matrix(int[], text[], text, text) to public;

create or replace function @mlflow@.insights_correlation_matrix(
    exp_ids text,
    filters text[],
    base_filter text default null,
    unit text default 'trace'
)
returns table (
    filter1_number int,
    filter2_number int,
    filter1 text,
    filter2 text,
    filter1_count bigint,
    filter2_count bigint,
    joint_count bigint,
    total_count bigint,
    npmi double precision,
    npmi_smoothed double precision,
    lift double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    test text
)
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_correlation_matrix(
    insights.experiment_ids(exp_ids), filters, base_filter, unit
)
$sql$;

comment on function @mlflow@.insights_correlation_matrix(text, text[], text, text) is
    'As insights_correlation_matrix of text[], with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_correlation_matrix(text, text[], text, text) from public;
grant execute on function @mlflow@.insights_correlation_matrix(text, text[], text, text) to public;
