"""The filter language over MLflow's tables: search, count and correlation."""

from __future__ import annotations

from alembic import op

from insights_py.bundles import bundle_of

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    bundle_of(revision).create(op.get_bind())


def downgrade() -> None:
    bundle_of(revision).remove(op.get_bind())
