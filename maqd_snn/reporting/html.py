"""The HTML page."""

from typing import Any


def html_report(report: dict[str, Any]) -> str:
    """Placeholder, replaced before the first commit."""
    return "<html></html>"
