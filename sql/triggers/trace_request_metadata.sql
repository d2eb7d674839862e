create or replace trigger insights_insert
after insert on @mlflow@.trace_request_metadata
referencing new table as new_rows
for each statement execute function insights.note_request_id();

create or replace trigger insights_update
after update on @mlflow@.trace_request_metadata
referencing old table as old_rows new table as new_rows
for each statement execute function insights.note_request_id();

create or replace trigger insights_delete
after delete on @mlflow@.trace_request_metadata
referencing old table as old_rows
for each statement execute function insights.note_request_id();

create or replace trigger insights_truncate
after truncate on @mlflow@.trace_request_metadata
for each statement execute function insights.note_truncate();
