"""CompressionReport and how to get one."""

from .facts import CompressionReport, TableReport
from .gather import compression_report

__all__ = ["CompressionReport", "TableReport", "compression_report"]
