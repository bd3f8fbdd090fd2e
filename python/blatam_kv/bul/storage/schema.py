"""The two tables, as this version reads and writes them.

Every change here needs a migration beside it; a test compares what the migrations build with what
stands here. A document is an answer's text, once, whoever asked for it how often; a task says which
it got.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

# The newest migration, and the schema below.
REVISION = "0001"

metadata = MetaData()

documents = Table(
    "documents",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("query", Text, nullable=False),
    Column("language", Text, nullable=False),
    Column("document_type", Text, nullable=False),
    Column("business_area", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("words", Text, nullable=False),  # of title, query and text; see words.py
    Column("model", Text, nullable=False),
    Column("finish_reason", Text, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("seconds", Double, nullable=False),  # that the model took
    Column("seconds_to_first_text", Double, nullable=False),
    Column("born", Double, nullable=False),  # Unix time, like all moments here
    Index("documents_by_tenant", "tenant", "born", "id"),
    Index("documents_by_area", "tenant", "business_area", "born", "id"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("node", Text, nullable=False),  # whose work it is, until it is finished
    Column("batch", String(32)),
    Column("status", Text, nullable=False),  # queued, completed, failed, cancelled
    Column("cache", Text, nullable=False),  # hit, miss, collapsed
    Column("stored", Boolean, nullable=False),
    Column("format", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("language", Text, nullable=False),
    Column("document_type", Text, nullable=False),
    Column("business_area", Text, nullable=False),
    Column("inferred", Text, nullable=False),  # names of fields, separated by spaces
    Column("request", Text),  # JSON, where there is no document
    Column("document_id", String(32), ForeignKey("documents.id")),
    Column("error", Text),
    Column("tries", Integer, nullable=False),
    Column("created", Double, nullable=False),
    Column("finished", Double),
    Column("deadline", Double),
    Index("tasks_by_tenant", "tenant", "created", "id"),
    Index("tasks_by_document", "document_id"),
    Index(
        "tasks_by_batch",
        "batch",
        sqlite_where=text("batch IS NOT NULL"),
        postgresql_where=text("batch IS NOT NULL"),
    ),
    Index(
        "tasks_unfinished",
        "node",
        "created",
        sqlite_where=text("status = 'queued'"),
        postgresql_where=text("status = 'queued'"),
    ),
)
