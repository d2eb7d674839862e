-- overloads: exp_ids int[], exp_ids text
create or replace function @mlflow@.insights_search(
    exp_ids text[],
    filter text default null,
    max_results int default 100,
    order_by text[] default null,
    page_token text default null
)
returns table (
    trace_id text,
    experiment_id text,
    request_time timestamptz,
    timestamp_ms bigint,
    execution_time_ms bigint,
    status text,
    trace_name text,
    session_id text,
    request_preview text,
    response_preview text,
    tags jsonb,
    metadata jsonb,
    assessments jsonb,
    next_page_token text
)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select
    r.trace_id,
    r.experiment_id,
    -- NULL where the number is no time that PostgreSQL knows.
    case
        when r.timestamp_ms between -210866803200000 and 9224318015999000
            then to_timestamp(r.timestamp_ms / 1000.0)
    end,
    r.timestamp_ms,
    r.execution_time_ms,
    r.status,
    r.trace_name,
    r.session_id,
    r.request_preview,
    r.response_preview,
    r.tags,
    r.metadata,
    r.assessments,
    r.next_page_token
from insights.run_search(exp_ids, filter, max_results, order_by, page_token) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_search(text[], text, int, text[], text) is
    'The traces that match a filter, newest first or as `order_by` says, a page at a time.

- `exp_ids`, `filter`: as in insights_count
- `max_results`: rows of a page, 1 to 50000
- `order_by`: clauses such as ''timestamp_ms DESC'', ''tags.env'', ''feedback.quality desc'', of fields with one value a
  trace. Missing values come last in both directions; `timestamp_ms DESC` and `trace_id ASC` decide ties
- `page_token`: the `next_page_token` of the page before. It belongs to the same experiments, filter and order

A row is a trace as MLflow has it:

- `trace_id`, `experiment_id`, `trace_name`, `session_id`, `status`
- `request_time`, `timestamp_ms`: when it began; the former is NULL if that is no time that PostgreSQL knows
- `execution_time_ms`: how long it took, in milliseconds
- `request_preview`, `response_preview`: the first characters of input and output
- `tags`, `metadata`: objects of texts
- `assessments`: an array of objects, those of the trace itself in the order of their creation
- `next_page_token`: the same in each row; NULL on the last page

SQLSTATE 22023 as in insights_count, and for `max_results`, `order_by` and `page_token`.';

revoke all on function @mlflow@.insights_search(text[], text, int, text[], text) from public;
grant execute on function @mlflow@.insights_search(text[], text, int, text[], text) to public;
