-- The number that a text reads as.  Texts whose cast cannot leave the range of
-- double precision are cast right here, the others go to parse_number.
--
-- Meant to be inlined, hence neither STRICT nor a SET clause; the body was
-- resolved when it was created.
create or replace function insights.text_number(value text) returns double precision
language sql
immutable
parallel safe
return case
    when value ~ '^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$'
        then case
            when length(value) <= 100 and value !~ '[eE]' then value::double precision
            else insights.parse_number(value)
        end
end;

comment on function insights.text_number(text) is
    'The finite number that a text wholly reads as (12, -0.5, 1e3), otherwise NULL';

revoke all on function insights.text_number(text) from public;
grant execute on function insights.text_number(text) to public;
