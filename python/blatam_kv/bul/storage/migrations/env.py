"""Run by alembic: the migrations on the connection that ``engine.migrate`` passes in."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
