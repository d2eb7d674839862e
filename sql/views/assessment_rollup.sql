create or replace view insights.assessment_rollup
with (security_barrier)
as
select
    t.trace_id,
    a.item ->> 0 as kind,
    a.item ->> 1 as name,
    (a.item ->> 2)::int as assessment_count,
    a.item ->> 3 as value,
    (a.item ->> 4)::float8 as numeric_value
from insights.trace t
cross join lateral json_array_elements(t.assessments::json) as a (item)
-- Views read with their owner's rights.
where (select insights.may_read());

comment on view insights.assessment_rollup is
    'Per indexed trace and name: how many valid assessments, and the latest, its value as stored';

revoke all on insights.assessment_rollup from public;
grant select on insights.assessment_rollup to public;
