-- What json_text leaves over: escapes, objects, arrays, unusual numbers.
create or replace function insights.decode_json_text(value text) returns text
language plpython3u
immutable
strict
parallel safe
cost 500
as $python$
read = SD.get("read")
if read is None:
    @python:insights_engine/exact/attributes.py@

    def read(value):
        return text_form(loads(value))

    SD["read"] = read
return read(value)
$python$;

comment on function insights.decode_json_text(text) is
    'The text of a JSON value: a string without quotes and escapes, all else as JSON prints it; '
    'NULL for null and for what is not JSON';

revoke all on function insights.decode_json_text(text) from public;
grant execute on function insights.decode_json_text(text) to public;
