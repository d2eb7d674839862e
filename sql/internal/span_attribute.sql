-- The text of a span attribute, decoded from the stored content.
--
-- Called for each candidate span, so it carries no SET clause (it runs no SQL)
-- and its COST keeps the planner from evaluating it before cheap conditions.
create or replace function insights.span_attribute(content text, path text[]) returns text
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
        return text_form(attribute_in(remembered(GD, content), path))

    SD["read"] = read
return read(content, path)
$python$;

comment on function insights.span_attribute(text, text[]) is
    'The decoded text of a span attribute, or of the part of it under the further keys of path; '
    'NULL where it is missing or the content is not JSON';

revoke all on function insights.span_attribute(text, text[]) from public;
grant execute on function insights.span_attribute(text, text[]) to public;
