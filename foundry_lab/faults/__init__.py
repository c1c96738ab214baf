"""Faults on purpose: a reverse proxy that spoils what passes, and a checklist for any client behind it."""

from foundry_lab.faults.kinds import KINDS, Fault, FaultKind
from foundry_lab.faults.proxy import FaultProxy, ProxiedRequest

__all__ = ["KINDS", "Fault", "FaultKind", "FaultProxy", "ProxiedRequest"]
