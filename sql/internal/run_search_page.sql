-- One row, ids and all: returning them one by one, each with its problem, took longer.
create or replace function insights.run_search_page(
    exp_ids text[],
    filter text,
    max_results int,
    order_by text[],
    page_token text,
    page_offset int,
    out trace_ids text[],
    out next_page_token text,
    out problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
-- shim: search_page
$python$;

comment on function insights.run_search_page(text[], text, int, text[], text, int) is
    'The trace ids of search_page, without raising';

revoke all on function insights.run_search_page(text[], text, int, text[], text, int) from public;
grant execute on function insights.run_search_page(text[], text, int, text[], text, int) to public;
