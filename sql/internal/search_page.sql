-- What belongs to a trace comes as one JSON text, [tags, metadata, assessments], as
-- the tables have it: MLflow would read it in three statements and some thousand rows.
-- In PL/pgSQL, because that keeps the statement's plan from one call to the next.
create or replace function insights.search_page(
    exp_ids text[],
    filter text,
    max_results int default 100,
    order_by text[] default null,
    page_token text default null,
    page_offset int default null
)
returns table (
    trace_id text,
    attached text,
    next_page_token text
)
language plpgsql
stable
parallel unsafe
rows 100
set search_path = pg_catalog, pg_temp
set jit = off
as $plpgsql$
declare
    page record;
begin
    perform insights.load_engine();
    page := insights.run_search_page(
        exp_ids, filter, max_results, order_by, page_token, page_offset
    );
    perform insights.accept(page.problem);
    return query
    select
        i.trace_id,
        pg_catalog.json_build_array(
            (
                select pg_catalog.json_object_agg(g.key, g.value)
                from @mlflow@.trace_tags g
                where g.request_id = i.trace_id
            ),
            (
                select pg_catalog.json_object_agg(m.key, m.value)
                from @mlflow@.trace_request_metadata m
                where m.request_id = i.trace_id
            ),
            (
                -- Values alone, in the order that the plugin knows: names would be half
                -- of the text.  MLflow asks for no order of rows.  It gets that of the index
                -- on trace and time, or else the table's, where an update moves a row to the end.
                select pg_catalog.json_agg(
                    pg_catalog.json_build_array(
                        a.assessment_id, a.trace_id, a.name, a.assessment_type, a.value, a.error,
                        a.created_timestamp, a.last_updated_timestamp, a.source_type, a.source_id,
                        a.run_id, a.span_id, a.rationale, a.overrides, a.valid,
                        a.assessment_metadata
                    )
                    order by a.created_timestamp, a.ctid
                )
                from @mlflow@.assessments a
                where a.trace_id = i.trace_id
            )
        )::text,
        page.next_page_token
    from pg_catalog.unnest(page.trace_ids) with ordinality i(trace_id, number)
    order by i.number;
end
$plpgsql$;

comment on function insights.search_page(text[], text, int, text[], text, int) is
    'insights_search for the MLflow plugin: trace ids and what is attached to the traces; '
    'page_offset stands for an offset token of stock MLflow';

revoke all on function insights.search_page(text[], text, int, text[], text, int) from public;
grant execute on function insights.search_page(text[], text, int, text[], text, int) to public;
