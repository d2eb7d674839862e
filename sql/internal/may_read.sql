-- Whether the caller may read every row of all of MLflow's tables that the index is made
-- of.  False where one is missing.  Roles that may read the index itself are asked this
-- besides: row security of MLflow's tables may have come over one of them since.
--
-- Meant to be inlined, hence neither STRICT nor a SET clause; the body was
-- resolved when it was created.
create or replace function insights.may_read() returns boolean
language sql
stable
parallel safe
return coalesce(
    has_table_privilege(to_regclass('@mlflow@.trace_info'), 'select')
    and has_table_privilege(to_regclass('@mlflow@.spans'), 'select')
    and has_table_privilege(to_regclass('@mlflow@.trace_tags'), 'select')
    and has_table_privilege(to_regclass('@mlflow@.trace_request_metadata'), 'select')
    and has_table_privilege(to_regclass('@mlflow@.assessments'), 'select')
    and has_table_privilege(to_regclass('@mlflow@.entity_associations'), 'select')
    and not row_security_active(to_regclass('@mlflow@.trace_info'))
    and not row_security_active(to_regclass('@mlflow@.spans'))
    and not row_security_active(to_regclass('@mlflow@.trace_tags'))
    and not row_security_active(to_regclass('@mlflow@.trace_request_metadata'))
    and not row_security_active(to_regclass('@mlflow@.assessments'))
    and not row_security_active(to_regclass('@mlflow@.entity_associations')),
    false
);

comment on function insights.may_read() is
    'Whether the caller may read every row that the index is made of';

revoke all on function insights.may_read() from public;
grant execute on function insights.may_read() to public;
