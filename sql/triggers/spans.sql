create or replace trigger insights_change
after insert or update or delete on @mlflow@.spans
for each row execute function insights.note_change('trace_id');

create or replace trigger insights_truncate
after truncate on @mlflow@.spans
for each statement execute function insights.note_change();

-- Also where session_replication_role is replica, as on a subscriber.
alter table @mlflow@.spans enable always trigger insights_change;
alter table @mlflow@.spans enable always trigger insights_truncate;
