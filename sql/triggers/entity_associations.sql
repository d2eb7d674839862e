create or replace trigger insights_change
after insert or update or delete on @mlflow@.entity_associations
for each row execute function insights.note_source_id();

create or replace trigger insights_truncate
after truncate on @mlflow@.entity_associations
for each statement execute function insights.note_truncate();
