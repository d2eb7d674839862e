-- A type of its own, because one of its columns is called like an argument.
create type insights.facet as (
    value text,
    low double precision,
    high double precision,
    filter text,
    count bigint,
    share double precision
);

comment on type insights.facet is
    'What insights_facets says of a value: the value; of a number its interval, low <= x < high, or '
    'the number itself twice; the filter for it; the matching traces that have it, and their share';
