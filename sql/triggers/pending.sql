create or replace trigger forget_noted
after delete or update or truncate on insights.pending
for each statement execute function insights.forget_noted();
