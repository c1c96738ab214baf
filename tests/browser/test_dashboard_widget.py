"""The health dashboard as a learner uses it: start, inject a fault, see the light change, stop."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import open_notebook, run_cell
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

CODE = """\
from foundry_lab import FoundryAPIClient, ensure_service
from foundry_lab.faults import FaultProxy
from foundry_lab.metrics import Metrics
from foundry_lab.workbook.widgets import HealthDashboard

proxy = FaultProxy(ensure_service()).start()
client = FoundryAPIClient(proxy.url, retries=0, metrics=Metrics())
HealthDashboard(client, proxy=proxy, interval_s=0.3)"""
BUSY = "import time\ntime.sleep(90)"


def test_start_fault_light_ask_stop(tmp_path: Path) -> None:
    expect.set_options(timeout=30_000)
    with open_notebook(tmp_path, CODE, BUSY) as page:
        run_cell(page)
        output = page.locator(".jp-OutputArea-output")
        light = output.locator("[data-status]")
        fault = output.locator("select")
        expect(light).to_have_attribute("data-status", "not watched")

        output.get_by_role("button", name="Start").click()
        expect(light).to_have_attribute("data-status", "healthy")
        output.get_by_role("button", name="Ask").click()
        expect(output).to_contain_text("1 answered, 0 failed")
        expect(output.locator("polyline")).to_have_count(2)
        page.screenshot(path=tmp_path / "healthy.png")

        fault.select_option("reset")
        expect(light).to_have_attribute("data-status", "unavailable")
        expect(output).to_contain_text("fault reset")
        output.get_by_role("button", name="Ask").click()
        expect(output).to_contain_text("1 answered, 1 failed")
        page.screenshot(path=tmp_path / "unavailable.png")

        fault.select_option("no fault")
        expect(light).to_have_attribute("data-status", "healthy")

        output.get_by_role("button", name="Stop").click()
        expect(light).to_have_attribute("data-status", "not watched")
        expect(output.get_by_role("button", name="Stop")).to_be_disabled()


def test_it_stays_live_while_a_cell_runs(tmp_path: Path) -> None:
    expect.set_options(timeout=30_000)
    with open_notebook(tmp_path, CODE, BUSY) as page:
        run_cell(page)
        output = page.locator(".jp-OutputArea-output")
        output.get_by_role("button", name="Start").click()
        expect(output.locator("[data-status]")).to_have_attribute("data-status", "healthy")
        run_cell(page, 1)
        page.get_by_text("Python 3 (ipykernel) | Busy").wait_for()
        line = output.locator("polyline").first
        expect(line).not_to_have_attribute("points", line.get_attribute("points") or "")
        page.get_by_text("Python 3 (ipykernel) | Busy").wait_for()
