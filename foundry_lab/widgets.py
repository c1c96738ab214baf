"""The workbook's widgets, for `from foundry_lab.widgets import …`."""

from __future__ import annotations

from .chat_panel import ChatPanel
from .dashboard import HealthDashboard

__all__ = ["ChatPanel", "HealthDashboard"]
