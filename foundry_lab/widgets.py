"""The workbook's widgets, for `from foundry_lab.widgets import …`."""

from __future__ import annotations

from .chat_panel import ChatPanel

__all__ = ["ChatPanel"]
