"""${message}."""

from __future__ import annotations

from alembic import op

from insights_py.bundles import bundle_of

revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = None
depends_on = None

# Between the two, tables are changed by hand: op.execute("alter table ...").


def upgrade() -> None:
    old, new = bundle_of(down_revision), bundle_of(revision)
    with new.replacing(op.get_bind(), old.public_functions):
        pass


def downgrade() -> None:
    old, new = bundle_of(down_revision), bundle_of(revision)
    with old.replacing(op.get_bind(), new.public_functions):
        pass
