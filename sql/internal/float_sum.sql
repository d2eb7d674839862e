-- sum(double precision) depends on the order of the rows and fails beyond the
-- largest double; this one does neither.
create or replace function insights.float_sum(numbers double precision[])
returns double precision
language plpython3u
immutable
strict
parallel safe
cost 300
as $python$
add = SD.get("add")
if add is None:
    @python:insights_engine/attributes.py@

    add = SD["add"] = total
return add(numbers)
$python$;

comment on function insights.float_sum(double precision[]) is
    'The correctly rounded sum of the numbers that are not NULL; NULL where there are none';

revoke all on function insights.float_sum(double precision[]) from public;
grant execute on function insights.float_sum(double precision[]) to public;
