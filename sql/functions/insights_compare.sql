-- shim: compare
-- overloads: exp_ids int[], exp_ids text
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
    @columns:insights_discover@
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
- `pairs`: conjunctions of two facts, too, where they tell the two apart better than each alone
- `restatements`: also facts about the fields that one of the two asks about
- `unit`: as in insights_count; ''session'' and ''session_all'' count sessions

The columns are those of insights_discover with the selection as target and the baseline as the rest: `target_share` is
the share of the fact in the selection, `other_share` that in the baseline. SQLSTATEs as there.';

revoke all on function @mlflow@.insights_compare(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_compare(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;
