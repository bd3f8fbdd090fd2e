"""Which taking of a task is the last one: what a node that lost it meanwhile is told apart by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # The default also serves nodes of the version before, while they are replaced one by one.
    op.add_column("tasks", sa.Column("fence", sa.Integer, nullable=False, server_default="1"))


def downgrade() -> None:
    op.drop_column("tasks", "fence")
