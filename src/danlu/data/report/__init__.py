"""The data report: one HTML file that needs no network, made of a `Survey`."""

from danlu.data.report.page import require_place, write_report

__all__ = ["require_place", "write_report"]
