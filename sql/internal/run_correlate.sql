create or replace function insights.run_correlate(
    exp_ids text[],
    filter1 text,
    filter2 text,
    base_filter text,
    unit text,
    out filter1_count bigint,
    out filter2_count bigint,
    out joint_count bigint,
    out total_count bigint,
    out npmi double precision,
    out npmi_smoothed double precision,
    out lift double precision,
    out phi double precision,
    out odds_ratio double precision,
    out odds_ratio_low double precision,
    out odds_ratio_high double precision,
    out p_value double precision,
    out test text,
    out problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "@engine@" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["@engine@"].correlate(
    plpy, '@mlflow@', exp_ids, filter1, filter2, base_filter, unit
)
$python$;

comment on function insights.run_correlate(text[], text, text, text, text) is
    'insights_correlate without raising';

revoke all on function insights.run_correlate(text[], text, text, text, text) from public;
grant execute on function insights.run_correlate(text[], text, text, text, text) to public;
