-- The array that a text such as '1', '1,2' or '{1,2}' stands for.
--
-- Meant to be inlined, hence neither STRICT nor a SET clause; the body was
-- resolved when it was created.
create or replace function insights.experiment_ids(exp_ids text) returns text[]
language sql
immutable
parallel safe
return string_to_array(translate(exp_ids, '{}" ', ''), ',');

comment on function insights.experiment_ids(text) is
    'The array of experiment ids that a text such as ''1'', ''1,2'' or ''{1,2}'' stands for';

revoke all on function insights.experiment_ids(text) from public;
grant execute on function insights.experiment_ids(text) to public;
