"""Making PDFs smaller, without Flask, Celery or a database: paths in, a receipt out."""

from backend.compression.engine.compressor import compress
from backend.compression.engine.errors import (
    DamagedPdf,
    NeedsPassword,
    NotAPdf,
    QualityOutOfRange,
    WrongPassword,
)
from backend.compression.engine.levels import Level
from backend.compression.engine.result import Compression

__all__ = [
    "Compression",
    "DamagedPdf",
    "Level",
    "NeedsPassword",
    "NotAPdf",
    "QualityOutOfRange",
    "WrongPassword",
    "compress",
]
