create or replace trigger insights_insert
after insert on @mlflow@.assessments
referencing new table as new_rows
for each statement execute function insights.note_trace_id();

create or replace trigger insights_update
after update on @mlflow@.assessments
referencing old table as old_rows new table as new_rows
for each statement execute function insights.note_trace_id();

create or replace trigger insights_delete
after delete on @mlflow@.assessments
referencing old table as old_rows
for each statement execute function insights.note_trace_id();

create or replace trigger insights_truncate
after truncate on @mlflow@.assessments
for each statement execute function insights.note_truncate();
