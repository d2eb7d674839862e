-- What the installation found and made, so that uninstalling leaves the database
-- as it was.
create table insights.installation (
    singleton boolean primary key default true check (singleton),
    mlflow_schema name not null,
    created_extensions name[] not null,
    bundle text not null,
    reader_role name,
    note_role name
);

comment on table insights.installation is
    'One row: what the installation found and made';
comment on column insights.installation.mlflow_schema is
    'The schema of MLflow''s tables, where the public functions are';
comment on column insights.installation.created_extensions is
    'Extensions that were not there before; uninstalling drops them';
comment on column insights.installation.bundle is
    'SHA-256 of the SQL that was installed last';

comment on column insights.installation.reader_role is
    'The role whose members may read the index';
comment on column insights.installation.note_role is
    'The role that owns the trigger function on MLflow''s tables';

revoke all on insights.installation from public;
grant select on insights.installation to public;
