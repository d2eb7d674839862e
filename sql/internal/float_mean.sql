-- The average to float_sum: avg(double precision) depends on the order of the
-- rows and fails when the squares exceed the largest double.
create or replace function insights.float_mean(numbers double precision[])
returns double precision
language plpython3u
immutable
strict
parallel safe
cost 300
as $python$
divide = SD.get("divide")
if divide is None:
    @python:insights_engine/attributes.py@

    divide = SD["divide"] = mean
return divide(numbers)
$python$;

comment on function insights.float_mean(double precision[]) is
    'The correctly rounded average of the numbers that are not NULL; NULL where there are none';

revoke all on function insights.float_mean(double precision[]) from public;
grant execute on function insights.float_mean(double precision[]) to public;
