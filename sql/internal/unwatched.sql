-- The first of the triggers on MLflow's tables that is not as triggers/ makes it.
create or replace function insights.unwatched() returns text
language sql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $sql$
select format('table %s has no trigger %s that always fires', w.name, w.trigger)
from (
    values
        ('@mlflow@.trace_info', 'insights_change', 'note_change', 'request_id', 29),
        ('@mlflow@.trace_tags', 'insights_change', 'note_change', 'request_id', 29),
        ('@mlflow@.trace_request_metadata', 'insights_change', 'note_change', 'request_id', 29),
        ('@mlflow@.spans', 'insights_change', 'note_change', 'trace_id', 29),
        ('@mlflow@.assessments', 'insights_change', 'note_change', 'trace_id', 29),
        ('@mlflow@.entity_associations', 'insights_change', 'note_change', 'source_id', 29),
        ('@mlflow@.trace_info', 'insights_truncate', 'note_truncate', null, 32),
        ('@mlflow@.trace_tags', 'insights_truncate', 'note_truncate', null, 32),
        ('@mlflow@.trace_request_metadata', 'insights_truncate', 'note_truncate', null, 32),
        ('@mlflow@.spans', 'insights_truncate', 'note_truncate', null, 32),
        ('@mlflow@.assessments', 'insights_truncate', 'note_truncate', null, 32),
        ('@mlflow@.entity_associations', 'insights_truncate', 'note_truncate', null, 32)
    -- type: the bits of pg_trigger.tgtype: for each row 1, insert 4, delete 8, update 16,
    -- truncate 32.
) w (name, trigger, function, argument, type)
where not exists (
    select from pg_trigger t
    where t.tgrelid = to_regclass(w.name)
    and t.tgname = w.trigger
    and t.tgfoid = to_regprocedure('insights.' || w.function || '()')
    and t.tgtype = w.type
    and t.tgenabled = 'A'
    and t.tgqual is null
    and t.tgattr::text = ''
    and encode(t.tgargs, 'escape') = coalesce(w.argument || E'\\000', '')
)
limit 1
$sql$;

comment on function insights.unwatched() is
    'Which trigger is missing, disabled or changed, so that changes go unnoticed; NULL: none';

revoke all on function insights.unwatched() from public;
grant execute on function insights.unwatched() to public;
