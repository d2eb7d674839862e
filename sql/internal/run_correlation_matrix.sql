create or replace function insights.run_correlation_matrix(
    exp_ids text[],
    filters text[],
    base_filter text,
    unit text
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
    test text,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "@engine@" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["@engine@"].correlation_matrix(
    plpy, '@mlflow@', exp_ids, filters, base_filter, unit
)
$python$;

comment on function insights.run_correlation_matrix(text[], text[], text, text) is
    'insights_correlation_matrix without raising';

revoke all on function insights.run_correlation_matrix(text[], text[], text, text) from public;
grant execute on function insights.run_correlation_matrix(text[], text[], text, text) to public;
