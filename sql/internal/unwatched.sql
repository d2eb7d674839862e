-- The first of the triggers on MLflow's tables that is not as triggers/ makes it, or rows that
-- none of them sees: those of a table's children, and of partitions with a trigger disabled.
create or replace function insights.unwatched() returns text
language sql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $sql$
select format('table %s has no trigger %s that always fires', m.name, w.trigger)
from (
    values
        ('@mlflow@.trace_info', 'request_id'),
        ('@mlflow@.trace_tags', 'request_id'),
        ('@mlflow@.trace_request_metadata', 'request_id'),
        ('@mlflow@.spans', 'trace_id'),
        ('@mlflow@.assessments', 'trace_id'),
        ('@mlflow@.entity_associations', 'source_id')
) m (name, argument)
cross join lateral (
    values
        ('insights_change', m.argument || E'\\000', 29),
        ('insights_truncate', '', 32)
    -- type: the bits of pg_trigger.tgtype: for each row 1, insert 4, delete 8, update 16,
    -- truncate 32.
) w (trigger, arguments, type)
where not exists (
    select from pg_trigger t
    where t.tgrelid = to_regclass(m.name)
    and t.tgname = w.trigger
    and t.tgfoid = to_regprocedure('insights.note_change()')
    and t.tgtype = w.type
    and t.tgenabled = 'A'
    and t.tgqual is null
    and t.tgattr::text = ''
    and encode(t.tgargs, 'escape') = w.arguments
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
