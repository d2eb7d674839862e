create or replace function @mlflow@.insights_discover(
    exp_ids text[],
    target text,
    base_filter text default null,
    kinds text[] default null,
    min_support int default 5,
    max_results int default 20,
    fdr double precision default 0.05,
    direction text default 'positive',
    pairs boolean default false,
    restatements boolean default false,
    unit text default 'trace'
)
returns table (
    filter text,
    kind text,
    key text,
    value text,
    target_count bigint,
    fact_count bigint,
    joint_count bigint,
    total_count bigint,
    target_share double precision,
    other_share double precision,
    difference double precision,
    lift double precision,
    npmi double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    q_value double precision,
    test text,
    restates boolean,
    similar text[],
    tested bigint
)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select
    r.filter,
    r.kind,
    r.key,
    r.value,
    r.target_count,
    r.fact_count,
    r.joint_count,
    r.total_count,
    r.target_share,
    r.other_share,
    r.difference,
    r.lift,
    r.npmi,
    r.phi,
    r.odds_ratio,
    r.odds_ratio_low,
    r.odds_ratio_high,
    r.p_value,
    r.q_value,
    r.test,
    r.restates,
    r.similar,
    r.tested
from insights.run_discover(
    exp_ids, target, base_filter, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'What goes with a target among the traces of a base filter: a row per significant fact, as a '
    'filter to go on with, the surest effect first';

revoke all on function @mlflow@.insights_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;

-- The other two take the ids as numbers or as one text.  They have no SET clause
-- and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_discover(
    exp_ids int[],
    target text,
    base_filter text default null,
    kinds text[] default null,
    min_support int default 5,
    max_results int default 20,
    fdr double precision default 0.05,
    direction text default 'positive',
    pairs boolean default false,
    restatements boolean default false,
    unit text default 'trace'
)
returns table (
    filter text,
    kind text,
    key text,
    value text,
    target_count bigint,
    fact_count bigint,
    joint_count bigint,
    total_count bigint,
    target_share double precision,
    other_share double precision,
    difference double precision,
    lift double precision,
    npmi double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    q_value double precision,
    test text,
    restates boolean,
    similar text[],
    tested bigint
)
language sql
stable
parallel unsafe
as $sql$
select * from @mlflow@.insights_discover(
    exp_ids::pg_catalog.text[], target, base_filter, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
)
$sql$;

comment on function @mlflow@.insights_discover(int[], text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'What goes with a target among the traces of a base filter: a row per significant fact, as a '
    'filter to go on with, the surest effect first';

revoke all on function @mlflow@.insights_discover(int[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_discover(int[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;

create or replace function @mlflow@.insights_discover(
    exp_ids text,
    target text,
    base_filter text default null,
    kinds text[] default null,
    min_support int default 5,
    max_results int default 20,
    fdr double precision default 0.05,
    direction text default 'positive',
    pairs boolean default false,
    restatements boolean default false,
    unit text default 'trace'
)
returns table (
    filter text,
    kind text,
    key text,
    value text,
    target_count bigint,
    fact_count bigint,
    joint_count bigint,
    total_count bigint,
    target_share double precision,
    other_share double precision,
    difference double precision,
    lift double precision,
    npmi double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    q_value double precision,
    test text,
    restates boolean,
    similar text[],
    tested bigint
)
language sql
stable
parallel unsafe
as $sql$
select * from @mlflow@.insights_discover(
    insights.experiment_ids(exp_ids), target, base_filter, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
)
$sql$;

comment on function @mlflow@.insights_discover(text, text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'What goes with a target among the traces of a base filter: a row per significant fact, as a '
    'filter to go on with, the surest effect first';

revoke all on function @mlflow@.insights_discover(text, text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_discover(text, text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;
