create or replace function insights.run_discover(
    exp_ids text[],
    target text,
    base_filter text,
    kinds text[],
    min_support int,
    max_results int,
    fdr double precision,
    direction text,
    pairs boolean,
    restatements boolean,
    unit text
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
    screened_count bigint,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "@engine@" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["@engine@"].discover(
    plpy, '@mlflow@', exp_ids, target, base_filter, kinds,
    min_support, max_results, fdr, direction, pairs, restatements, unit
)
$python$;

comment on function insights.run_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'insights_discover without raising';

revoke all on function insights.run_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function insights.run_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;
