-- PL/pgSQL, whose plans last for the session: planning the call anew took a third of it.
create or replace function @mlflow@.insights_correlate(
    exp_ids text[],
    f1 text,
    f2 text,
    base_filter text default null,
    unit text default 'trace'
)
returns table (
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
language plpgsql
stable
parallel unsafe
rows 1
set search_path = pg_catalog, pg_temp
set jit = off
as $plpgsql$
#variable_conflict use_column
begin
    return query
    select
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
    from insights.run_correlate(exp_ids, f1, f2, base_filter, unit) r
    where insights.accept(r.problem);
end
$plpgsql$;

comment on function @mlflow@.insights_correlate(text[], text, text, text, text) is
    'How two filters go together among the traces of a base filter: counts, NPMI as MLflow '
    'defines it, lift, phi, odds ratio with its 95 % interval, p-value; unit as in insights_count';

revoke all on function @mlflow@.insights_correlate(text[], text, text, text, text) from public;
grant execute on function @mlflow@.insights_correlate(text[], text, text, text, text) to public;

-- The other two take the ids as numbers or as one text.  They have no SET clause
-- and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_correlate(
    exp_ids int[],
    f1 text,
    f2 text,
    base_filter text default null,
    unit text default 'trace'
)
returns table (
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
select * from @mlflow@.insights_correlate(exp_ids::pg_catalog.text[], f1, f2, base_filter, unit)
$sql$;

comment on function @mlflow@.insights_correlate(int[], text, text, text, text) is
    'How two filters go together among the traces of a base filter: counts, NPMI as MLflow '
    'defines it, lift, phi, odds ratio with its 95 % interval, p-value; unit as in insights_count';

revoke all on function @mlflow@.insights_correlate(int[], text, text, text, text) from public;
grant execute on function @mlflow@.insights_correlate(int[], text, text, text, text) to public;

create or replace function @mlflow@.insights_correlate(
    exp_ids text,
    f1 text,
    f2 text,
    base_filter text default null,
    unit text default 'trace'
)
returns table (
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
from @mlflow@.insights_correlate(insights.experiment_ids(exp_ids), f1, f2, base_filter, unit)
$sql$;

comment on function @mlflow@.insights_correlate(text, text, text, text, text) is
    'How two filters go together among the traces of a base filter: counts, NPMI as MLflow '
    'defines it, lift, phi, odds ratio with its 95 % interval, p-value; unit as in insights_count';

revoke all on function @mlflow@.insights_correlate(text, text, text, text, text) from public;
grant execute on function @mlflow@.insights_correlate(text, text, text, text, text) to public;
