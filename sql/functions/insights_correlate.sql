-- shim: correlate(plpy, '@mlflow@', exp_ids, filter1, filter2, base_filter, unit)
-- overloads: exp_ids int[], exp_ids text
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
    perform insights.load_engine();
    return query
    select
        r.@columns:insights_correlate@
    from insights.run_correlate(exp_ids, f1, f2, base_filter, unit) r
    where insights.accept(r.problem);
end
$plpgsql$;

comment on function @mlflow@.insights_correlate(text[], text, text, text, text) is
    'How two filters go together among the traces of a base filter. One row.

- `exp_ids`, `unit`: as in insights_count. With unit ''session'' all counts are of sessions
- `f1`, `f2`: the filters
- `base_filter`: only its traces are looked at; conditions on spans that are joined to it by AND speak of one span

With n traces in all, n11 of them match both filters, n10 only the first, n01 only the second, and n00 neither:

- `filter1_count`, `filter2_count`, `joint_count`, `total_count`: n11 + n10, n11 + n01, n11 and n
- `npmi`: normalised pointwise mutual information as MLflow has it, to the last bit:
  log(n11 n / ((n11 + n10) (n11 + n01))) / -log(n11 / n). From -1 (never together) over 0 (independent) to 1 (only
  together)
- `npmi_smoothed`: the same after adding 0.5 to n11, n10, n01 and n00
- `lift`: n11 n / ((n11 + n10) (n11 + n01)), how many times as often together as by chance
- `phi`: (n11 n00 - n10 n01) / sqrt((n11 + n10) (n01 + n00) (n11 + n01) (n10 + n00)), Pearson''s correlation, from -1
  to 1
- `odds_ratio`: (n11 + 0.5) (n00 + 0.5) / ((n10 + 0.5) (n01 + 0.5)). 0.5 is always added (Haldane-Anscombe), which
  makes it nearly unbiased, and finite
- `odds_ratio_low`, `odds_ratio_high`: its 95 % bounds, odds_ratio * exp(-+1.96 s) with s the root of the sum of
  1 / (n.. + 0.5) over the four
- `p_value`: how probable an association at least this strong would be by chance, two-sided
- `test`: where it comes from. ''Fisher'', the exact test, if some expected count, such as (n11 + n10) (n11 + n01) / n,
  is below 100; ''G2'', the likelihood-ratio test without continuity correction, otherwise. insights_discover has
  the same rule

If a filter matches nothing, `npmi` and `npmi_smoothed` are NaN and `lift` is NULL. If it matches nothing or everything,
`phi`, the odds ratio, its bounds, `p_value` and `test` are NULL. SQLSTATE 22023 as in insights_count.';

revoke all on function @mlflow@.insights_correlate(text[], text, text, text, text) from public;
grant execute on function @mlflow@.insights_correlate(text[], text, text, text, text) to public;
