"""Events are read in the order in which their transactions ended; jobs hold their inputs.

Revision ID: 0002
Revises: 0001
"""
import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

# On SQLite the table is made anew, with ids that are never given out twice.
NUMBERED_ONCE = {'recreate': 'auto', 'table_kwargs': {'sqlite_autoincrement': True}}


def upgrade() -> None:
    """Go forward."""
    op.drop_column('jobs', 'rung_at')
    op.create_index(op.f('ix_schedule_slots_job_id'), 'schedule_slots', ['job_id'], unique=False)
    op.add_column('jobs', sa.Column('roll_up_due', sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table('documents', schema=None, **NUMBERED_ONCE) as batch_op:
        batch_op.alter_column('name', existing_type=sa.Text())
    with op.batch_alter_table('job_events', schema=None, **NUMBERED_ONCE) as batch_op:
        batch_op.drop_index('ix_job_events_owner')
        batch_op.add_column(sa.Column('txid', sa.BigInteger(), nullable=False, server_default='0'))
    with op.batch_alter_table('job_events', schema=None, **NUMBERED_ONCE) as batch_op:
        batch_op.alter_column('txid', server_default=None)
        batch_op.create_index('ix_job_events_owner', ['owner_id', 'txid', 'id'], unique=False)
    op.execute(
        'UPDATE job_events SET owner_id = NULL'
        ' WHERE job_id IN (SELECT id FROM jobs WHERE parent_id IS NOT NULL)'
    )
    op.create_table('job_inputs',
    sa.Column('job_id', sa.Uuid(), nullable=False),
    sa.Column('file_id', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['file_id'], ['stored_files.id'], name=op.f('fk_job_inputs_file_id_stored_files'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_job_inputs_job_id_jobs'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', 'file_id', name=op.f('pk_job_inputs'))
    )
    with op.batch_alter_table('job_inputs', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_job_inputs_file_id'), ['file_id'], unique=False)


def downgrade() -> None:
    """Go back."""
    op.drop_table('job_inputs')
    op.drop_column('jobs', 'roll_up_due')
    op.add_column('jobs', sa.Column('rung_at', sa.DateTime(timezone=True), nullable=True))
    op.drop_index(op.f('ix_schedule_slots_job_id'), 'schedule_slots')
    op.execute(
        'UPDATE job_events SET owner_id = (SELECT owner_id FROM jobs WHERE jobs.id = job_events.job_id)'
    )
    with op.batch_alter_table('job_events', schema=None) as batch_op:
        batch_op.drop_index('ix_job_events_owner')
        batch_op.drop_column('txid')
        batch_op.create_index('ix_job_events_owner', ['owner_id', 'id'], unique=False)
