"""The tables, as this version reads and writes them.

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
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

# The newest migration, and the schema below.
REVISION = "0005"

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
    Column("company_name", Text, nullable=False, server_default=""),
    Column("target_audience", Text, nullable=False, server_default=""),
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
    Column("look", Text),  # JSON, where it is not the usual one
    # Grows each time that a node takes the task; see fence.py. The node that began it has 1.
    Column("fence", Integer, nullable=False, server_default="1"),
    Column("trace", Text),  # the traceparent of who asked, where that was traced
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

# What stands at the head of a tenant's documents.
letterheads = Table(
    "letterheads",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("company", Text, nullable=False),
    Column("lines", Text, nullable=False),  # JSON, a list
    Column("logo", LargeBinary),
    Column("logo_format", Text),
    Column("logo_width", Integer),
    Column("logo_height", Integer),
    Column("changed", Double, nullable=False),
)

# What was answered to a request that may be repeated, by its Idempotency-Key.
replies = Table(
    "replies",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("route", Text, primary_key=True),  # method and template of the path
    Column("key", Text, primary_key=True),
    Column("request", String(64), nullable=False),  # a digest of its body
    Column("node", Text, nullable=False),  # who answers, until there is a status
    Column("began", Double, nullable=False),
    Column("status", SmallInteger),
    Column("headers", Text),  # JSON, pairs
    Column("body", LargeBinary),
    Index("replies_by_age", "began"),
)

# Who is to be told of the end of a task or a batch. Due as soon as that has ended.
callbacks = Table(
    "callbacks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("key_id", Text, nullable=False),  # whose signing key signs it
    Column("node", Text, nullable=False),  # whose work it is
    Column("task_id", String(32)),
    Column("batch", String(32)),
    Column("url", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due", Double, nullable=False),  # not to be tried before
    Column("created", Double, nullable=False),
    Column("ended", Double),  # delivered, or given up with an error
    Column("error", Text),
    Index(
        "callbacks_waiting",
        "node",
        "due",
        sqlite_where=text("ended IS NULL"),
        postgresql_where=text("ended IS NULL"),
    ),
    Index("callbacks_by_age", "created"),
)
