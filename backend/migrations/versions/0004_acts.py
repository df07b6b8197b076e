"""What is done to many jobs is kept, and finished after a crash; a ledger has an identity.

Revision ID: 0004
Revises: 0003
"""
import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

IS_UNFINISHED = sa.text('finished_at IS NULL')


def upgrade() -> None:
    """Go forward."""
    op.create_table('acts',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('action', sa.String(length=20), nullable=False),
    sa.Column('target', sa.String(length=120), nullable=False),
    sa.Column('filter', sa.JSON(), nullable=True),
    sa.Column('options', sa.JSON(), nullable=True),
    sa.Column('via', sa.String(length=10), nullable=False),
    sa.Column('by', sa.String(length=254), nullable=False),
    sa.Column('user_id', sa.Integer(), nullable=True),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('finished_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('matched', sa.Integer(), nullable=False),
    sa.Column('done', sa.Integer(), nullable=False),
    sa.Column('bound', sa.Uuid(), nullable=True),
    sa.Column('position', sa.Uuid(), nullable=True),
    sa.Column('batch_id', sa.Uuid(), nullable=True),
    sa.Column('token', sa.Uuid(), nullable=True),
    sa.Column('lease_expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_acts'))
    )
    op.create_table('ledger_identity',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('name', sa.String(length=32), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_ledger_identity'))
    )
    op.create_index(
        'ix_acts_unfinished', 'acts', ['id'],
        unique=False, postgresql_where=IS_UNFINISHED, sqlite_where=IS_UNFINISHED,
    )


def downgrade() -> None:
    """Go back. What was kept of acts is forgotten; an unfinished one stays undone."""
    op.drop_table('ledger_identity')
    op.drop_table('acts')
