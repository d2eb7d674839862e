create or replace trigger insights_change
after insert or update or delete on @mlflow@.trace_info
for each row execute function insights.note_request_id();

create or replace trigger insights_truncate
after truncate on @mlflow@.trace_info
for each statement execute function insights.note_truncate();
