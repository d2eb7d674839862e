-- The first of the triggers on MLflow's tables that is not as triggers/ makes it, or rows that
-- none of them sees: those of a table's children, and of partitions with a trigger disabled.
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
union all
select format('trigger %s does not always fire on partition %s', t.tgname, t.tgrelid::regclass)
from pg_trigger t
join pg_trigger p on p.oid = t.tgparentid
where p.tgname = 'insights_change'
and p.tgfoid = to_regprocedure('insights.note_change()')
and t.tgenabled <> 'A'
union all
select format('the triggers of table %s see nothing of table %s', i.inhparent::regclass, i.inhrelid::regclass)
from pg_inherits i
join pg_class c on c.oid = i.inhparent and c.relkind = 'r'
where i.inhparent in (
    to_regclass('@mlflow@.trace_info'),
    to_regclass('@mlflow@.spans'),
    to_regclass('@mlflow@.trace_tags'),
    to_regclass('@mlflow@.trace_request_metadata'),
    to_regclass('@mlflow@.assessments'),
    to_regclass('@mlflow@.entity_associations')
)
limit 1
$sql$;

comment on function insights.unwatched() is
    'What lets changes go unnoticed: a trigger that is missing, disabled or changed, a table with children; NULL: nothing';

revoke all on function insights.unwatched() from public;
grant execute on function insights.unwatched() to public;
