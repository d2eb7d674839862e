-- The decoded text of an assessment's stored JSON value.  The frequent cases
-- (plain strings, small integers, booleans) are settled without Python.
--
-- Meant to be inlined, hence neither STRICT nor a SET clause; the body was
-- resolved when it was created.
create or replace function insights.json_text(value text) returns text
language sql
immutable
parallel safe
return case
    when value ~ '^"[^"\\\x01-\x1f]*"$' then substr(value, 2, length(value) - 2)
    when value ~ '^(true|false|0|-?[1-9][0-9]{0,15})$' then value
    when value = 'null' then null
    else insights.decode_json_text(value)
end;

comment on function insights.json_text(text) is
    'The text of a JSON value: a string without quotes and escapes, all else as JSON prints it; '
    'NULL for null and for what is not JSON';

revoke all on function insights.json_text(text) from public;
grant execute on function insights.json_text(text) to public;
