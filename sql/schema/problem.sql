-- What is wrong with a request, as the engine found it.  PL/Python functions
-- return it instead of raising, because an error raised there would show users
-- a Python traceback in its CONTEXT; insights.accept() turns it into an error.
create type insights.problem as (
    sqlstate text,
    message text,
    detail text,
    hint text
);

comment on type insights.problem is
    'What is wrong with a request: SQLSTATE, message, DETAIL and HINT';
