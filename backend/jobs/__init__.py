"""The job core's façade: what a domain needs to declare its kinds and to submit them."""

from backend.jobs.batches import submit_batch
from backend.jobs.context import JobContext
from backend.jobs.kinds import FileId, Queue, Retry, job
from backend.jobs.ledger import submit
from backend.jobs.schedules import Schedule

__all__ = ["FileId", "JobContext", "Queue", "Retry", "Schedule", "job", "submit", "submit_batch"]
