"""Tasks and documents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "documents",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("document_type", sa.Text, nullable=False),
        sa.Column("business_area", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.Text, nullable=False),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("cached_tokens", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("seconds_to_first_text", sa.Double, nullable=False),
        sa.Column("born", sa.Double, nullable=False),
    )
    op.create_index("documents_by_tenant", "documents", ["tenant", "born", "id"])
    op.create_index("documents_by_area", "documents", ["tenant", "business_area", "born", "id"])
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("batch", sa.String(32)),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("cache", sa.Text, nullable=False),
        sa.Column("stored", sa.Boolean, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("document_type", sa.Text, nullable=False),
        sa.Column("business_area", sa.Text, nullable=False),
        sa.Column("inferred", sa.Text, nullable=False),
        sa.Column("request", sa.Text),
        sa.Column("document_id", sa.String(32), sa.ForeignKey("documents.id")),
        sa.Column("error", sa.Text),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("finished", sa.Double),
        sa.Column("deadline", sa.Double),
    )
    op.create_index("tasks_by_tenant", "tasks", ["tenant", "created", "id"])
    op.create_index("tasks_by_document", "tasks", ["document_id"])
    in_batch = sa.text("batch IS NOT NULL")
    op.create_index(
        "tasks_by_batch", "tasks", ["batch"], sqlite_where=in_batch, postgresql_where=in_batch
    )
    queued = sa.text("status = 'queued'")
    op.create_index(
        "tasks_unfinished",
        "tasks",
        ["node", "created"],
        sqlite_where=queued,
        postgresql_where=queued,
    )


def downgrade() -> None:
    op.drop_table("tasks")
    op.drop_table("documents")
