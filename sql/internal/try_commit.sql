-- A transaction block, or a function, around a procedure does not let it commit, which PostgreSQL
-- says in three words when it is too late.  There is no other way to ask than to try, and
-- PL/pgSQL cannot catch what comes of it: its exception blocks do not let commit either.
--
-- A procedure that commits can have no SET clause; it resolves no names.
create or replace procedure insights.try_commit(
    caller text,
    inout problem insights.problem
)
language plpython3u
as $python$
try:
    plpy.commit()
except plpy.spiexceptions.InvalidTransactionTermination:
    return ("25001", caller + " cannot run inside a transaction block",
            None, "It commits time and again. Call it by itself, with autocommit."),
return None,
$python$;

comment on procedure insights.try_commit(text, insights.problem) is
    'Commits, for a procedure that is going to; the problem says where it cannot';

revoke all on procedure insights.try_commit(text, insights.problem) from public;
