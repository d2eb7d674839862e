create or replace trigger insights_change
after insert or update or delete on @mlflow@.assessments
for each row execute function insights.note_trace_id();

create or replace trigger insights_truncate
after truncate on @mlflow@.assessments
for each statement execute function insights.note_truncate();
