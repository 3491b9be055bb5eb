"""the first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "assets",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=71), nullable=False),
        sa.Column("format", sa.String(length=8), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id"),
    )
    with op.batch_alter_table("assets", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_assets_expires_ms"), ["expires_ms"], unique=False)

    op.create_table(
        "facts",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        comment="the epoch, and what else is said once for the whole ledger",
    )
    op.create_table(
        "lanes",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("vtime", sa.Float(), nullable=False, comment="where its next claim begins"),
        sa.Column("start", sa.Float(), nullable=False, comment="where its newest claim began"),
        sa.PrimaryKeyConstraint("tenant"),
    )
    with op.batch_alter_table("lanes", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_lanes_start"), ["start"], unique=False)
        batch_op.create_index(batch_op.f("ix_lanes_vtime_tenant"), ["vtime", "tenant"], unique=False)

    op.create_table(
        "lockouts",
        sa.Column("upstream", sa.String(length=64), nullable=False),
        sa.Column("credential", sa.String(length=64), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("upstream", "credential"),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_runs_tenant_fingerprint"), ["tenant", "fingerprint"], unique=False)

    op.create_table(
        "signing_keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="mac, ed25519"),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("not_after_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("plan", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("run", sa.String(length=26), nullable=False),
        sa.Column("session", sa.String(length=26), nullable=True),
        sa.Column("on_disconnect", sa.String(length=8), nullable=False),
        sa.Column("ref", sa.String(length=64), nullable=False),
        sa.Column("task", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("upstream", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("claim", sa.Integer(), nullable=False),
        sa.Column("claimed_by", sa.String(length=64), nullable=True),
        sa.Column("lease_ms", sa.BigInteger(), nullable=False, comment="until when the claim holds"),
        sa.Column("ready_ms", sa.BigInteger(), nullable=False, comment="not to be claimed before"),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("price_micros", sa.BigInteger(), nullable=False),
        sa.Column("cost_micros", sa.BigInteger(), nullable=False),
        sa.Column("deadline_ms", sa.BigInteger(), nullable=True),
        sa.Column("cancel_by", sa.String(length=16), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=True),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("trimmed", sa.Boolean(), nullable=False, comment="its log was cut to the end event"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_jobs_run")),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(
            "ix_jobs_deadline",
            ["deadline_ms"],
            unique=False,
            sqlite_where=sa.text("ended_ms IS NULL"),
            postgresql_where=sa.text("ended_ms IS NULL"),
        )
        batch_op.create_index(
            "ix_jobs_queue", ["state", "upstream", "tenant", sa.literal_column("priority DESC"), "id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_jobs_run"), ["run"], unique=False)
        batch_op.create_index(batch_op.f("ix_jobs_session"), ["session"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_jobs_tenant_subject_ended_ms"), ["tenant", "subject", "ended_ms"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_jobs_tenant_subject_id"), ["tenant", "subject", "id"], unique=False)
        batch_op.create_index(batch_op.f("ix_jobs_trimmed_ended_ms"), ["trimmed", "ended_ms"], unique=False)

    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=128), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.Column("token_epoch", sa.Integer(), nullable=False, comment="tokens of an older one are revoked"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_keys_tenant")),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "revoked_tokens",
        sa.Column("key", sa.String(length=26), nullable=False),
        sa.Column("jti", sa.String(length=64), nullable=False),
        sa.Column(
            "expires_ms",
            sa.BigInteger(),
            nullable=False,
            comment="when the token ends by itself, and with it this row",
        ),
        sa.ForeignKeyConstraint(["key"], ["keys.id"], name=op.f("fk_revoked_tokens_key")),
        sa.PrimaryKeyConstraint("key", "jti"),
    )
    with op.batch_alter_table("revoked_tokens", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_revoked_tokens_expires_ms"), ["expires_ms"], unique=False)

    op.create_table(
        "sessions",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column(
            "expires_ms", sa.BigInteger(), nullable=False, comment="while connected: when its node must have renewed it"
        ),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("restriction", sa.LargeBinary(), nullable=True, comment="what its tickets left of their credentials"),
        sa.Column(
            "spent_micros", sa.BigInteger(), nullable=False, comment="the most that its jobs may cost, all together"
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_sessions_tenant")),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sessions_expires_ms"), ["expires_ms"], unique=False)

    op.create_table(
        "calls",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("run", sa.String(length=26), nullable=False),
        sa.Column("job", sa.String(length=26), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("upstream", sa.String(length=64), nullable=False),
        sa.Column("credential", sa.String(length=64), nullable=False),
        sa.Column("billed", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("first_index", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("price_micros", sa.BigInteger(), nullable=False),
        sa.Column("cost_micros", sa.BigInteger(), nullable=False),
        sa.Column("handle", sa.String(length=200), nullable=True, comment="the vendor's own id of the work"),
        sa.Column("error", sa.String(length=64), nullable=True),
        sa.Column("sent_ms", sa.BigInteger(), nullable=False),
        sa.Column("answered_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_calls_job")),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_calls_run")),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("calls", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_calls_job"), ["job"], unique=False)
        batch_op.create_index(batch_op.f("ix_calls_run"), ["run"], unique=False)
        batch_op.create_index(batch_op.f("ix_calls_upstream_sent_ms"), ["upstream", "sent_ms"], unique=False)

    op.create_table(
        "events",
        sa.Column("job", sa.String(length=26), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_events_job")),
        sa.PrimaryKeyConstraint("job", "seq"),
    )
    op.create_table(
        "holds",
        sa.Column("job", sa.String(length=26), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False, comment="held, settled, released, spent_unknown"),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_holds_job")),
        sa.PrimaryKeyConstraint("job"),
    )
    with op.batch_alter_table("holds", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_holds_tenant_state"), ["tenant", "state"], unique=False)

    op.create_table(
        "refs",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("ref", sa.String(length=64), nullable=False),
        sa.Column("job", sa.String(length=26), nullable=False),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_refs_job")),
        sa.PrimaryKeyConstraint("tenant", "subject", "ref"),
    )
    with op.batch_alter_table("refs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_refs_job"), ["job"], unique=False)


def downgrade() -> None:
    """Drop every table."""
    with op.batch_alter_table("refs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_refs_job"))

    op.drop_table("refs")
    with op.batch_alter_table("holds", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_holds_tenant_state"))

    op.drop_table("holds")
    op.drop_table("events")
    with op.batch_alter_table("calls", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_calls_upstream_sent_ms"))
        batch_op.drop_index(batch_op.f("ix_calls_run"))
        batch_op.drop_index(batch_op.f("ix_calls_job"))

    op.drop_table("calls")
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_sessions_expires_ms"))

    op.drop_table("sessions")
    with op.batch_alter_table("revoked_tokens", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_revoked_tokens_expires_ms"))

    op.drop_table("revoked_tokens")
    op.drop_table("keys")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_jobs_trimmed_ended_ms"))
        batch_op.drop_index(batch_op.f("ix_jobs_tenant_subject_id"))
        batch_op.drop_index(batch_op.f("ix_jobs_tenant_subject_ended_ms"))
        batch_op.drop_index(batch_op.f("ix_jobs_session"))
        batch_op.drop_index(batch_op.f("ix_jobs_run"))
        batch_op.drop_index("ix_jobs_queue")
        batch_op.drop_index(
            "ix_jobs_deadline", sqlite_where=sa.text("ended_ms IS NULL"), postgresql_where=sa.text("ended_ms IS NULL")
        )

    op.drop_table("jobs")
    op.drop_table("tenants")
    op.drop_table("signing_keys")
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_runs_tenant_fingerprint"))

    op.drop_table("runs")
    op.drop_table("lockouts")
    with op.batch_alter_table("lanes", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_lanes_vtime_tenant"))
        batch_op.drop_index(batch_op.f("ix_lanes_start"))

    op.drop_table("lanes")
    op.drop_table("facts")
    with op.batch_alter_table("assets", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_assets_expires_ms"))

    op.drop_table("assets")
