"""Alembic's entry: run the migrations on the address that the caller gave."""

from alembic import context
from sqlalchemy import create_engine

from gateway.ledger.schema import metadata

engine = create_engine(context.config.attributes["url"])
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
