-- Lets a row pass, or raises the problem that came instead of rows.  The only
-- place where this project raises a user's mistake: from here its CONTEXT shows
-- SQL, never Python.
create or replace function insights.accept(problem insights.problem) returns boolean
language plpgsql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $plpgsql$
begin
    if problem is null then
        return true;
    elsif problem.detail is null and problem.hint is null then
        raise exception using errcode = problem.sqlstate, message = problem.message;
    elsif problem.detail is null then
        raise exception using errcode = problem.sqlstate, message = problem.message,
            hint = problem.hint;
    elsif problem.hint is null then
        raise exception using errcode = problem.sqlstate, message = problem.message,
            detail = problem.detail;
    end if;
    raise exception using errcode = problem.sqlstate, message = problem.message,
        detail = problem.detail, hint = problem.hint;
end
$plpgsql$;

comment on function insights.accept(insights.problem) is
    'True where there is no problem; raises it where there is one';

revoke all on function insights.accept(insights.problem) from public;
grant execute on function insights.accept(insights.problem) to public;
