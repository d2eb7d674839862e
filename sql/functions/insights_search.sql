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
    'The traces of the experiments (NULL: of all) that match the filter, newest first or as '
    'order_by says, a page at a time: each row carries the token of the next page, NULL on '
    'the last page';

revoke all on function @mlflow@.insights_search(text[], text, int, text[], text) from public;
grant execute on function @mlflow@.insights_search(text[], text, int, text[], text) to public;

-- The other two take the ids as numbers or as one text.  They have no SET clause
-- and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_search(
    exp_ids int[],
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
as $sql$
select *
from @mlflow@.insights_search(
    exp_ids::pg_catalog.text[], filter, max_results, order_by, page_token
)
$sql$;

comment on function @mlflow@.insights_search(int[], text, int, text[], text) is
    'The traces of the experiments (NULL: of all) that match the filter, newest first or as '
    'order_by says, a page at a time: each row carries the token of the next page, NULL on '
    'the last page';

revoke all on function @mlflow@.insights_search(int[], text, int, text[], text) from public;
grant execute on function @mlflow@.insights_search(int[], text, int, text[], text) to public;

create or replace function @mlflow@.insights_search(
    exp_ids text,
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
as $sql$
select *
from @mlflow@.insights_search(
    insights.experiment_ids(exp_ids), filter, max_results, order_by, page_token
)
$sql$;

comment on function @mlflow@.insights_search(text, text, int, text[], text) is
    'The traces of the experiments (NULL: of all) that match the filter, newest first or as '
    'order_by says, a page at a time: each row carries the token of the next page, NULL on '
    'the last page';

revoke all on function @mlflow@.insights_search(text, text, int, text[], text) from public;
grant execute on function @mlflow@.insights_search(text, text, int, text[], text) to public;
