-- The numbers that PostgreSQL's own cast might refuse (see text_number): it
-- raises an error where Python's float() gives zero or infinity.
create or replace function insights.parse_number(value text) returns double precision
language plpython3u
immutable
strict
parallel safe
cost 300
as $python$
read = SD.get("read")
if read is None:
    @python:insights_engine/exact/attributes.py@

    read = SD["read"] = number_form
return read(value)
$python$;

comment on function insights.parse_number(text) is
    'The finite number that a text of any length wholly reads as, otherwise NULL';

revoke all on function insights.parse_number(text) from public;
grant execute on function insights.parse_number(text) to public;
