-- With no trace in MLflow's tables there is nothing to build; the triggers have
-- been there for a moment, and none can have come in between.
insert into insights.state (built, trusted, indexed_through)
select
    not exists (select from @mlflow@.trace_info),
    m.last_value,
    ''
from insights.missed m
on conflict do nothing;
