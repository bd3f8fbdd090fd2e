"""Which trace a task belongs to, for the node that goes on with it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("trace", sa.Text))


def downgrade() -> None:
    op.drop_column("tasks", "trace")
