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
    'The valid assessments of each indexed trace by kind and name, for BI tools. As fresh as the index.

- `trace_id`
- `kind`, `name`: feedback or expectation, and its name
- `assessment_count`: how many there are
- `value`: the latest, as stored
- `numeric_value`: that as a number, if it is one

For members of the group of readers (insights.installation.reader_role); no rows for those that may not read
all of MLflow''s tables.';

revoke all on insights.assessment_rollup from public;
