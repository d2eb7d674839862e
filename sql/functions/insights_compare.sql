create or replace function @mlflow@.insights_compare(
    exp_ids text[],
    selection text,
    baseline text,
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
    tested bigint,
    screened_count bigint
)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
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
    r.tested,
    r.screened_count
from insights.run_compare(
    exp_ids, selection, baseline, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_compare(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'What sets a selection of traces apart from a baseline: a row per significant fact, as a filter to go on
with, the surest effect first.

- `exp_ids`: as in insights_count
- `selection`, `baseline`: two filters. Traces that match both count as selected, those that match neither are left out
- `kinds`: the kinds of facts to test: trace, tag, metadata, feedback, expectation, run, prompt, issue, span, attribute,
  number; NULL means all
- `min_support`: facts of fewer traces of the base are not tested
- `max_results`: rows at most, 1 to 1000
- `fdr`: the false discovery rate, above 0 and at most 1: the share of rows that may be chance
- `direction`: ''positive'' for facts that are more frequent in the selection, ''negative'' for rarer ones, ''both''
- `pairs`: conjunctions of two facts, too, where they go with it more strongly than each alone
- `restatements`: also facts about the fields that one of the two asks about
- `unit`: as in insights_count; ''session'' and ''session_all'' count sessions

The columns are those of insights_discover with the selection as target and the baseline as the rest: `target_share` is
the share of the fact in the selection, `other_share` that in the baseline. SQLSTATEs as there.';

revoke all on function @mlflow@.insights_compare(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_compare(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;

-- The other two take the ids as numbers or as one text.  They have no SET clause
-- and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_compare(
    exp_ids int[],
    selection text,
    baseline text,
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
    tested bigint,
    screened_count bigint
)
language sql
stable
parallel unsafe
as $sql$
select * from @mlflow@.insights_compare(
    exp_ids::pg_catalog.text[], selection, baseline, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
)
$sql$;

comment on function @mlflow@.insights_compare(int[], text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'As insights_compare of text[], with ids as numbers';

revoke all on function @mlflow@.insights_compare(int[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_compare(int[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;

create or replace function @mlflow@.insights_compare(
    exp_ids text,
    selection text,
    baseline text,
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
    tested bigint,
    screened_count bigint
)
language sql
stable
parallel unsafe
as $sql$
select * from @mlflow@.insights_compare(
    insights.experiment_ids(exp_ids), selection, baseline, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
)
$sql$;

comment on function @mlflow@.insights_compare(text, text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'As insights_compare of text[], with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_compare(text, text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_compare(text, text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;
