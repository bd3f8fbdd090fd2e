"""Answers kept for repeated requests, and callbacks to be delivered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "replies",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("route", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("began", sa.Double, nullable=False),
        sa.Column("status", sa.SmallInteger),
        sa.Column("headers", sa.Text),
        sa.Column("body", sa.LargeBinary),
    )
    op.create_index("replies_by_age", "replies", ["began"])
    op.create_table(
        "callbacks",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("task_id", sa.String(32)),
        sa.Column("batch", sa.String(32)),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("due", sa.Double, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("ended", sa.Double),
        sa.Column("error", sa.Text),
    )
    waiting = sa.text("ended IS NULL")
    op.create_index(
        "callbacks_waiting",
        "callbacks",
        ["node", "due"],
        sqlite_where=waiting,
        postgresql_where=waiting,
    )
    op.create_index("callbacks_by_age", "callbacks", ["created"])


def downgrade() -> None:
    op.drop_table("callbacks")
    op.drop_table("replies")
