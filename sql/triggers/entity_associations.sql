create or replace trigger insights_insert
after insert on @mlflow@.entity_associations
referencing new table as new_rows
for each statement execute function insights.note_source_id();

create or replace trigger insights_update
after update on @mlflow@.entity_associations
referencing old table as old_rows new table as new_rows
for each statement execute function insights.note_source_id();

create or replace trigger insights_delete
after delete on @mlflow@.entity_associations
referencing old table as old_rows
for each statement execute function insights.note_source_id();

create or replace trigger insights_truncate
after truncate on @mlflow@.entity_associations
for each statement execute function insights.note_truncate();
