"""The course's widgets: `from foundry_lab import widgets`."""

from foundry_lab.workbook.widgets.chat_panel import ChatPanel
from foundry_lab.workbook.widgets.dashboard import HealthDashboard

__all__ = ["ChatPanel", "HealthDashboard"]
