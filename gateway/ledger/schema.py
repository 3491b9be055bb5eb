"""The ledger's tables, one text for SQLite and PostgreSQL.

Every row that belongs to somebody carries its tenant, from the first day. Times are milliseconds since 1970 (`_ms`),
money is integer millionths (`_micros`). `jobs` is the queue: there is no second one to fall out of step.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

facts = Table(
    "facts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", String(256), nullable=False),
    comment="the epoch, and what else is said once for the whole ledger",
)

tenants = Table(
    "tenants",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("plan", LargeBinary, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("label", String(128), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger),
    Column("token_epoch", Integer, nullable=False, comment="tokens of an older one are revoked"),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("kind", String(16), nullable=False, comment="mac, ed25519"),
    Column("secret", LargeBinary, nullable=False),
    Column("not_after_ms", BigInteger, nullable=False),
)

revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("key", String(26), ForeignKey("keys.id"), primary_key=True),
    Column("jti", String(64), primary_key=True),
    Column("expires_ms", BigInteger, nullable=False, comment="when the token ends by itself, and with it this row"),
    Index(None, "expires_ms"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("generation", Integer, nullable=False),
    Column(
        "expires_ms",
        BigInteger,
        nullable=False,
        comment="while connected: when its node must have renewed it",
    ),
    Column("created_ms", BigInteger, nullable=False),
    Column("restriction", LargeBinary, comment="what its tickets left of their credentials"),
    Column("spent_micros", BigInteger, nullable=False, comment="the most that its jobs may cost, all together"),
    Index(None, "expires_ms"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Index(None, "tenant", "fingerprint"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("run", String(26), ForeignKey("runs.id"), nullable=False),
    Column("session", String(26)),
    Column("on_disconnect", String(8), nullable=False),
    Column("ref", String(64), nullable=False),
    Column("task", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("upstream", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("claim", Integer, nullable=False),
    Column("claimed_by", String(64)),
    Column("lease_ms", BigInteger, nullable=False, comment="until when the claim holds"),
    Column("ready_ms", BigInteger, nullable=False, comment="not to be claimed before"),
    Column("priority", Integer, nullable=False),
    Column("price_micros", BigInteger, nullable=False),
    Column("cost_micros", BigInteger, nullable=False),
    Column("deadline_ms", BigInteger),
    Column("cancel_by", String(16)),
    Column("created_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("trimmed", Boolean, nullable=False, comment="its log was cut to the end event"),
    Index(None, "tenant", "subject", "id"),
    Index(None, "tenant", "subject", "ended_ms"),
    Index(None, "session"),
    Index(None, "run"),
    Index(None, "trimmed", "ended_ms"),
    Index(
        "ix_jobs_deadline",
        "deadline_ms",
        sqlite_where=text("ended_ms IS NULL"),
        postgresql_where=text("ended_ms IS NULL"),
    ),
)
# By its own name, as the order of a column has none.
Index("ix_jobs_queue", jobs.c.state, jobs.c.upstream, jobs.c.tenant, jobs.c.priority.desc(), jobs.c.id)

events = Table(
    "events",
    metadata,
    Column("job", String(26), ForeignKey("jobs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("body", LargeBinary, nullable=False),
)

refs = Table(
    "refs",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("subject", String(128), primary_key=True),
    Column("ref", String(64), primary_key=True),
    Column("job", String(26), ForeignKey("jobs.id"), nullable=False),
    Column("body_hash", String(64), nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Index(None, "job"),
)

holds = Table(
    "holds",
    metadata,
    Column("job", String(26), ForeignKey("jobs.id"), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("amount_micros", BigInteger, nullable=False),
    Column("state", String(16), nullable=False, comment="held, settled, released, spent_unknown"),
    Index(None, "tenant", "state"),
)

calls = Table(
    "calls",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("run", String(26), ForeignKey("runs.id"), nullable=False),
    Column("job", String(26), ForeignKey("jobs.id"), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("upstream", String(64), nullable=False),
    Column("credential", String(64), nullable=False),
    Column("billed", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    Column("first_index", Integer, nullable=False),
    Column("count", Integer, nullable=False),
    Column("price_micros", BigInteger, nullable=False),
    Column("cost_micros", BigInteger, nullable=False),
    Column("handle", String(200), comment="the vendor's own id of the work"),
    Column("error", String(64)),
    Column("sent_ms", BigInteger, nullable=False),
    Column("answered_ms", BigInteger),
    Index(None, "run"),
    Index(None, "job"),
    Index(None, "upstream", "sent_ms"),
)

lanes = Table(
    "lanes",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("weight", Float, nullable=False),
    Column("vtime", Float, nullable=False, comment="where its next claim begins"),
    Column("start", Float, nullable=False, comment="where its newest claim began"),
    Index(None, "vtime", "tenant"),
    Index(None, "start"),
)

assets = Table(
    "assets",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(71), primary_key=True),
    Column("format", String(8), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Index(None, "expires_ms"),
)

lockouts = Table(
    "lockouts",
    metadata,
    Column("upstream", String(64), primary_key=True),
    Column("credential", String(64), primary_key=True),
    Column("until_ms", BigInteger, nullable=False),
)
