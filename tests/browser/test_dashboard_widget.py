"""The health dashboard as a learner uses it: start, inject a fault, kill the service, stop; read it saved."""

from __future__ import annotations

from pathlib import Path

import nbformat
import psutil
import pytest
from lab import Lab, faint_texts, run_cell, save, use_theme
from playwright.sync_api import expect

from foundry_lab import engine

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


def test_start_fault_ask_kill_stop(jupyterlab: Lab, tmp_path: Path) -> None:
    with jupyterlab.open(CODE) as page:
        run_cell(page)
        output = page.locator(".jp-OutputArea-output")
        light = output.locator("[data-status]")
        fault = output.get_by_label("Fault")
        expect(light).to_have_attribute("data-status", "not watched")
        expect(output.get_by_label("Rate")).to_have_value("1")

        output.get_by_role("button", name="Start").click()
        expect(light).to_have_attribute("data-status", "healthy")
        output.get_by_role("button", name="Ask").click()
        expect(output).to_contain_text("1 answered, 0 failed")
        expect(output.locator("polyline")).to_have_count(2)
        page.screenshot(path=tmp_path / "healthy.png")

        fault.select_option("reset")
        expect(light).to_have_attribute("data-status", "unavailable")
        expect(output).to_contain_text("fault reset")
        for asked in range(1, 6):
            output.get_by_role("button", name="Ask").click()
            expect(output).to_contain_text(f"1 answered, {asked} failed")
        expect(output).to_contain_text("breaker open: after failed requests it lets none through")
        for theme in ("dark", "light"):
            use_theme(page, theme)
            assert faint_texts(output) == []
            page.screenshot(path=tmp_path / f"unavailable-{theme}.png")

        fault.select_option("no fault")
        expect(light).to_have_attribute("data-status", "healthy")
        expect(output).to_contain_text("breaker half-open: the next request is a trial")
        page.screenshot(path=tmp_path / "half-open.png")

        state = engine.service_status()
        assert state is not None
        psutil.Process(state.pid).kill()
        expect(light).to_have_attribute("data-status", "unavailable")
        page.screenshot(path=tmp_path / "killed.png")
        assert engine.ensure_service(progress=False) != state.url, "it came back at another port"
        expect(light).to_have_attribute("data-status", "healthy")
        output.get_by_role("button", name="Ask").click()
        expect(output).to_contain_text("2 answered, 5 failed")
        expect(output).to_contain_text("breaker closed")
        page.screenshot(path=tmp_path / "back.png")

        output.get_by_role("button", name="Stop").click()
        expect(light).to_have_attribute("data-status", "not watched")
        expect(output.get_by_role("button", name="Stop")).to_be_disabled()


def test_it_stays_live_while_a_cell_runs(jupyterlab: Lab) -> None:
    with jupyterlab.open(CODE, BUSY) as page:
        run_cell(page)
        output = page.locator(".jp-OutputArea-output")
        output.get_by_role("button", name="Start").click()
        expect(output.locator("[data-status]")).to_have_attribute("data-status", "healthy")
        run_cell(page, 1)
        page.get_by_text("Python 3 (ipykernel) | Busy").wait_for()
        line = output.locator("polyline").first
        expect(line).not_to_have_attribute("points", line.get_attribute("points") or "")
        page.get_by_text("Python 3 (ipykernel) | Busy").wait_for()


def test_saved_and_opened_by_somebody_else_its_lines_are_still_there(jupyterlab: Lab, tmp_path: Path) -> None:
    """A notebook of others isn't trusted: JupyterLab removes SVG elements from its outputs."""
    shown = f"{CODE[: CODE.rindex('Health')]}dashboard = {CODE.splitlines()[-1]}.start()"
    looked = "import time\nwhile len(dashboard._monitor.history) < 5:\n    time.sleep(0.1)\ndashboard"
    with jupyterlab.open(shown, looked) as page:
        run_cell(page)
        run_cell(page, 1)
        expect(page.locator("polyline")).to_have_count(2)
        save(page)
    book = nbformat.read(jupyterlab.root / "test.ipynb", as_version=4)
    (output,) = book.cells[1].outputs
    output.data["text/html"] += "<p>changed by hand</p>"  # whose signature JupyterLab doesn't know
    nbformat.write(book, jupyterlab.root / "received.ipynb")
    with jupyterlab.open_file("received.ipynb") as page:
        expect(page.get_by_text("changed by hand")).to_be_visible()
        charts = page.locator(".jp-OutputArea-output img")
        expect(charts).to_have_count(2)
        for theme in ("light", "dark"):
            use_theme(page, theme)
            page.screenshot(path=tmp_path / f"received-{theme}.png")
            assert faint_texts(page.locator(".jp-OutputArea-output")) == []
        for chart in charts.all():
            assert " looks: " in (chart.get_attribute("alt") or "")
            assert chart.evaluate("image => image.naturalWidth") == 260
