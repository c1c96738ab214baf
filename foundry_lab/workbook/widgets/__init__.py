"""The workbook's widgets, for `from foundry_lab.widgets import …`."""

from __future__ import annotations

from foundry_lab.workbook.widgets.chat_panel import ChatPanel
from foundry_lab.workbook.widgets.dashboard import HealthDashboard

__all__ = ["ChatPanel", "HealthDashboard"]
