-- The number in a span attribute as a decimal: as short as identifies the double
-- (0.1, not 0.1000000000000000055), for sums that depend on no order of the rows.
--
-- Called for each candidate span, so it carries no SET clause (it runs no SQL)
-- and its COST keeps the planner from evaluating it before cheap conditions.
create or replace function insights.span_attribute_decimal(content text, path text[])
returns numeric
language plpython3u
immutable
strict
parallel safe
cost 1000
as $python$
read = SD.get("read")
if read is None:
    @python:insights_engine/exact/attributes.py@

    def read(content, path):
        return number_form(attribute_in(remembered(GD, content), path))

    SD["read"] = read
return read(content, path)
$python$;

comment on function insights.span_attribute_decimal(text, text[]) is
    'A span attribute as span_attribute_number has it, as a decimal for exact sums';

revoke all on function insights.span_attribute_decimal(text, text[]) from public;
grant execute on function insights.span_attribute_decimal(text, text[]) to public;
