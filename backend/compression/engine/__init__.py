"""Making PDFs smaller, without Flask, Celery or a database: paths in, a receipt out."""

from backend.compression.engine.compressor import compress
from backend.compression.engine.errors import (
    DamagedPdf,
    NeedsMemory,
    NeedsPassword,
    NotAPdf,
    QualityOutOfRange,
    TooElaborate,
    WrongPassword,
)
from backend.compression.engine.estimating import Estimate, estimate
from backend.compression.engine.levels import DEFAULT_QUALITY, Level
from backend.compression.engine.receipt import Receipt, SignedPolicy

__all__ = [
    "DEFAULT_QUALITY",
    "DamagedPdf",
    "Estimate",
    "Level",
    "NeedsMemory",
    "NeedsPassword",
    "NotAPdf",
    "QualityOutOfRange",
    "Receipt",
    "SignedPolicy",
    "TooElaborate",
    "WrongPassword",
    "compress",
    "estimate",
]
