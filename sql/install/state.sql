-- Before the first query on MLflow's tables, which may run what their owner has put there.
select insights.guard(true);

-- With no trace in MLflow's tables there is nothing to build; the triggers have
-- been there for a moment, and none can have come in between.
insert into insights.state (built, trusted, fingerprint, identity, horizon, indexed_through)
select
    not exists (select from @mlflow@.trace_info),
    m.last_value,
    insights.fingerprint(),
    insights.identity(),
    pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()),
    ''
from insights.missed m
on conflict do nothing;

-- Triggers that were re-created have missed nothing if nothing had gone unnoticed before
-- (prepare/intact.sql).  Otherwise the next refresh sees that the fingerprint is another one.
update insights.state s
set fingerprint = insights.fingerprint()
where pg_catalog.current_setting('insights.intact', true) = 'true'
and s.fingerprint <> insights.fingerprint();
