-- The number in a span attribute, decoded from the stored content.
--
-- Called for each candidate span, so it carries no SET clause (it runs no SQL)
-- and its COST keeps the planner from evaluating it before cheap conditions.
create or replace function insights.span_attribute_number(content text, path text[])
returns double precision
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

comment on function insights.span_attribute_number(text, text[]) is
    'A span attribute as a finite number: a JSON number, or a text that wholly reads as a decimal '
    'number; otherwise NULL';

revoke all on function insights.span_attribute_number(text, text[]) from public;
grant execute on function insights.span_attribute_number(text, text[]) to public;
