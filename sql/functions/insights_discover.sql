-- shim: discover
-- overloads: exp_ids int[], exp_ids text
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
    r.@columns:insights_discover@
from insights.run_discover(
    exp_ids, target, base_filter, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'Facts associated with a target: a row per significant fact of the traces, as a filter to go on with, the surest
effect first.

- `exp_ids`: as in insights_count
- `target`: the filter in question
- `base_filter`: only its traces are looked at, those of the target and others
- `kinds`: the kinds of facts to test: trace, tag, metadata, feedback, expectation, run, prompt, issue, span, attribute,
  number; NULL means all
- `min_support`: facts of fewer traces of the base are not tested
- `max_results`: rows at most, 1 to 1000
- `fdr`: the false discovery rate, above 0 and at most 1: the share of rows that may be chance
- `direction`: ''positive'' for facts that are more frequent in the target, ''negative'' for rarer ones, ''both''
- `pairs`: conjunctions of two facts, too, where they are associated with it more strongly than each alone
- `restatements`: also facts about the fields that the target asks about
- `unit`: as in insights_count; ''session'' and ''session_all'' count sessions

Every fact of the wanted kinds is counted exactly inside and outside of the target (beyond 400,000 traces those that
stand out in a sample) and tested:

- `filter`: the fact; insights_correlate(exp_ids, target, filter, base_filter) gives its counts
- `kind`, `key`, `value`: what it is about; `value` is NULL where it is that there is one
- `target_count`, `fact_count`, `joint_count`, `total_count`: traces of the base in the target, with the fact, with
  both, and all
- `target_share`, `other_share`: joint / target, and (fact - joint) / (total - target)
- `difference`: the first minus the second
- `lift`, `npmi`, `phi`, `odds_ratio`, `odds_ratio_low`, `odds_ratio_high`: as in insights_correlate
- `p_value`, `test`: as in insights_correlate; for the best of several thresholds ''best of N splits, ...'', with the
  search paid for in p
- `q_value`: the least false discovery rate that admits the row (Benjamini-Hochberg over all facts tested)
- `restates`: whether the fact merely restates the target
- `similar`: filters of near-identical facts (phi of 0.95 or more), which have no row of their own
- `tested`: how many facts were tested
- `screened_count`: among how many traces facts were sought: total_count, or fewer in a sample of very many

Rows are ordered by the lower bound of the odds ratio (''negative'': the upper bound ascending; ''both'': the bound nearer
to 1). A target of none or all of the traces has no rows. SQLSTATE 22023 as in insights_count, and for the options.';

revoke all on function @mlflow@.insights_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;
