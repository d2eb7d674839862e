"""The filter language over MLflow's tables: search, count and correlation."""

from __future__ import annotations

from alembic import op

from insights_py import bundles

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    bundles.create_extensions(op.get_bind(), ["plpython3u", "pg_trgm"])
    bundles.run_schema(op.get_bind(), revision)
    bundles.run_functions(op.get_bind(), revision)


def downgrade() -> None:
    bundles.drop_functions(op.get_bind(), revision)
    bundles.drop_schema_objects(op.get_bind(), revision)
    bundles.drop_roles(op.get_bind())
    bundles.drop_extensions(op.get_bind())
