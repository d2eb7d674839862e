-- Commits after every step, so that neither locks nor old versions of rows pile up;
-- meanwhile MLflow's tables answer.  What is interrupted goes on with the next call,
-- or with insights.build_batch.
--
-- A procedure that commits can have no SET clause, so every name is written in full.
create or replace procedure @mlflow@.insights_rebuild(batch_size int default 32000)
language plpgsql
as $plpgsql$
declare
    step record;
    problem insights.problem;
begin
    perform insights.load_engine();
    call insights.try_commit('insights_rebuild', problem);
    perform insights.accept(problem);
    loop
        select r.busy, insights.accept(r.problem) as accepted into step
        from insights.run_rebuild(batch_size, leased => true) r;
        commit;
        exit when not step.busy;
        perform pg_catalog.pg_sleep(0.05);
    end loop;
    loop
        select b.done, b.busy into step from insights.build_batch(batch_size, leased => true) b;
        commit;
        exit when step.done;
        if step.busy then
            perform pg_catalog.pg_sleep(0.05);
        end if;
    end loop;
end
$plpgsql$;

comment on procedure @mlflow@.insights_rebuild(int) is
    'Builds the index anew. Filters are answered all the while, but without the index.

- `batch_size`: traces a transaction

It commits batch by batch, so it has to be called with CALL outside of a transaction; interrupted, `insights index`
goes on, and another call begins anew. SQLSTATE 25001 in a transaction block, 22023 if `batch_size` is not positive.';

revoke all on procedure @mlflow@.insights_rebuild(int) from public;
