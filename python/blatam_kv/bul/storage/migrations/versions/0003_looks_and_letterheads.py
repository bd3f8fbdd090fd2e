"""How a task's document looks, for which company and readers it was written, and letterheads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("look", sa.Text))
    for name in ("company_name", "target_audience"):
        op.add_column("documents", sa.Column(name, sa.Text, nullable=False, server_default=""))
    op.create_table(
        "letterheads",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("company", sa.Text, nullable=False),
        sa.Column("lines", sa.Text, nullable=False),
        sa.Column("logo", sa.LargeBinary),
        sa.Column("logo_format", sa.Text),
        sa.Column("logo_width", sa.Integer),
        sa.Column("logo_height", sa.Integer),
        sa.Column("changed", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("letterheads")
    op.drop_column("documents", "target_audience")
    op.drop_column("documents", "company_name")
    op.drop_column("tasks", "look")
