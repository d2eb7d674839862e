create or replace trigger insights_change
after insert or update or delete on @mlflow@.trace_request_metadata
for each row execute function insights.note_change('request_id');

create or replace trigger insights_truncate
after truncate on @mlflow@.trace_request_metadata
for each statement execute function insights.note_change();

-- Also where session_replication_role is replica, as on a subscriber.
alter table @mlflow@.trace_request_metadata enable always trigger insights_change;
alter table @mlflow@.trace_request_metadata enable always trigger insights_truncate;
