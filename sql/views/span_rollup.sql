-- insights.trace keeps an item per signature: its number and one duration, or its
-- number, how many spans, and the sum, smallest and largest of their durations in ns.
create or replace view insights.span_rollup
with (security_barrier)
as
select
    t.trace_id,
    s.type as span_type,
    s.name as span_name,
    s.status,
    case when cardinality(i.item) = 2 then 1 else i.item[2]::int end as span_count,
    case when cardinality(i.item) = 2 then i.item[2] else nullif(i.item[3], '') end::float8 / 1e6
        as total_ms,
    case when cardinality(i.item) = 2 then i.item[2] else nullif(i.item[4], '') end::float8 / 1e6
        as min_ms,
    case when cardinality(i.item) = 2 then i.item[2] else nullif(i.item[5], '') end::float8 / 1e6
        as max_ms
from insights.trace t
cross join lateral string_to_table(t.spans, ' ') as l (packed)
cross join lateral (select string_to_array(l.packed, ':') as item) i
join insights.signature s on s.signature = i.item[1]::int
-- Views read with their owner's rights.
where (select insights.may_read());

comment on view insights.span_rollup is
    'The spans of each indexed trace by type, name and status, for BI tools. As fresh as the index.

- `trace_id`
- `span_type`, `span_name`, `status`: what the spans have in common
- `span_count`: how many there are
- `total_ms`, `min_ms`, `max_ms`: their durations in milliseconds: the sum, the shortest and the longest; NULL without an end

For members of the group of readers (insights.installation.reader_role); no rows for those that may not read
all of MLflow''s tables.';

revoke all on insights.span_rollup from public;
