"""Owners take turns within a queue; kinds and workers are paused as queues are.

Revision ID: 0003
Revises: 0002
"""
import sqlalchemy as sa
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

IS_READY = sa.text("state IN ('queued', 'retrying')")


def upgrade() -> None:
    """Go forward."""
    # The default spares SQLite from copying the table to learn that there is no NULL.
    op.add_column(
        'jobs',
        sa.Column(
            'turn_at', sa.DateTime(timezone=True), nullable=False, server_default='1970-01-01 00:00:00'
        ),
    )
    op.execute('UPDATE jobs SET turn_at = run_at')
    op.drop_index('ix_jobs_ready', 'jobs')
    op.create_index(
        'ix_jobs_ready', 'jobs',
        ['queue', sa.text('priority DESC'), 'turn_at', 'id', 'run_at', 'kind'],
        unique=False, postgresql_where=IS_READY, sqlite_where=IS_READY,
    )
    op.create_index(
        'ix_jobs_turns', 'jobs', ['owner_id', 'queue', 'turn_at'],
        unique=False, postgresql_where=IS_READY, sqlite_where=IS_READY,
    )
    op.create_table('pauses',
    sa.Column('scope', sa.String(length=10), nullable=False),
    sa.Column('name', sa.String(length=120), nullable=False),
    sa.Column('paused_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('paused_by', sa.String(length=254), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('scope', 'name', name=op.f('pk_pauses'))
    )
    op.execute(
        'INSERT INTO pauses (scope, name, paused_at, paused_by, reason)'
        " SELECT 'queue', queue, paused_at, '', reason FROM queue_pauses"
    )
    op.drop_table('queue_pauses')


def downgrade() -> None:
    """Go back. Pauses of kinds and workers are lifted."""
    op.create_table('queue_pauses',
    sa.Column('queue', sa.String(length=40), nullable=False),
    sa.Column('paused_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('queue', name=op.f('pk_queue_pauses'))
    )
    op.execute(
        'INSERT INTO queue_pauses (queue, paused_at, reason)'
        " SELECT name, paused_at, reason FROM pauses WHERE scope = 'queue'"
    )
    op.drop_table('pauses')
    op.drop_index('ix_jobs_turns', 'jobs')
    op.drop_index('ix_jobs_ready', 'jobs')
    op.create_index(
        'ix_jobs_ready', 'jobs', ['queue', sa.text('priority DESC'), 'run_at', 'id'],
        unique=False, postgresql_where=IS_READY, sqlite_where=IS_READY,
    )
    op.drop_column('jobs', 'turn_at')
