"""A live look at a service: status light, memory and latency, breaker, requests, fault switches."""

from __future__ import annotations

import base64
import html
import itertools
import textwrap
import threading
from collections.abc import Sequence
from types import NoneType
from typing import Any

import ipywidgets as widgets

from foundry_lab._ground.checks import check_kind
from foundry_lab.client import FoundryAPIClient
from foundry_lab.errors import FoundryError
from foundry_lab.faults import KINDS, Fault, FaultProxy
from foundry_lab.metrics import Metrics
from foundry_lab.monitor import HealthMonitor
from foundry_lab.sync_client import SyncFoundryAPIClient
from foundry_lab.types import Health

LIGHTS = {
    "healthy": ("●", "#2e9e5b"),
    "degraded": ("▲", "#c98500"),
    "unavailable": ("■", "#d63a25"),
    "not watched": ("○", "#8a8a8a"),
}
"""A shape as well as a colour, which not everybody sees."""
BREAKER = {
    "open": ": after failed requests it lets none through for some seconds; looks go past it",
    "half-open": ": the next request is a trial: if it is answered, the breaker closes",
}
"""Why a service can be healthy while its breaker isn't closed."""
SHOWN = 60
"""Samples in the lines."""
ASK_TIMEOUT_S = 10.0
OFF = "no fault"


class HealthDashboard:
    """Watches a service and shows what it sees; make it the last value of a cell.

    It looks from a thread with a client of its own, so it stays live while a cell runs. "Ask" sends one small
    request through the given client's breaker and into its metrics. In a saved or converted notebook stays
    what it showed when its cell ran.

    Args:
        client: whose service, breaker and metrics to show; None makes one for the service that the
            environment or the engine names.
        proxy: a running fault proxy that the client talks through; adds the fault switches.
        interval_s: seconds between two looks.

    Raises:
        ConfigurationError: no client; a proxy that is none; an interval that makes no sense.
    """

    def __init__(
        self,
        client: FoundryAPIClient | SyncFoundryAPIClient | None = None,
        *,
        proxy: FaultProxy | None = None,
        interval_s: float = 1.0,
    ) -> None:
        check_kind(proxy, "proxy", (FaultProxy, NoneType), "a FaultProxy(…) that runs")
        given = client or SyncFoundryAPIClient(proxy.url if proxy else None, metrics=Metrics())
        check_kind(given, "client", (FoundryAPIClient, SyncFoundryAPIClient), "a FoundryAPIClient(…)")
        # It shares the given one's breaker and metrics; no cache, as "Ask" asks the service.
        self._client = given.twin(SyncFoundryAPIClient, cache=None)
        self._proxy = proxy
        self._monitor = HealthMonitor(self._client, interval_s, history=SHOWN)
        self._monitor.on_sample(lambda look: self._draw())
        self._said = ""
        self._view = widgets.HTML()
        self._start = widgets.Button(description="Start", icon="play", tooltip="Begin to look")
        self._stop = widgets.Button(description="Stop", icon="stop", tooltip="Stop looking", disabled=True)
        self._ask = widgets.Button(description="Ask", icon="comment", tooltip="Send one small request")
        self._start.on_click(lambda _: self.start())
        self._stop.on_click(lambda _: self.stop())
        self._ask.on_click(lambda _: self._ask_in_background())
        self._fault = widgets.Dropdown(options=[OFF, *KINDS], value=OFF, description="Fault")
        self._rate = widgets.BoundedFloatText(
            value=1.0, min=0.05, max=1.0, step=0.05, description="Rate", tooltip="Share of the requests"
        )
        self._fault.observe(self._switch, "value")
        self._rate.observe(self._switch, "value")
        self._controls = [self._start, self._stop, self._ask, self._fault, self._rate]
        rows = [self._view, widgets.HBox(self._controls[:3])]
        if proxy is not None:
            rows.append(widgets.HBox(self._controls[3:]))
        self.widget = widgets.VBox(rows)
        self._draw()

    def start(self) -> HealthDashboard:
        """Begin to look; return the dashboard."""
        self._monitor.start()
        self._start.disabled, self._stop.disabled = True, False
        self._draw()
        return self

    def stop(self) -> None:
        """Stop looking. What was seen stays on show."""
        self._monitor.close()
        self._start.disabled, self._stop.disabled = False, True
        self._draw()

    def close(self) -> None:
        """Stop and close the connections. What was seen stays on show, and its controls do nothing more."""
        self.stop()
        self._client.close()
        for control in self._controls:
            control.disabled = True

    def html(self, *, live: bool = False) -> str:
        """Return the present view as HTML that needs no JavaScript; `live` if it is to be drawn anew soon."""
        seen = [look.health for look in list(self._monitor.history)]
        health = seen[-1] if seen else None
        status = health.status if health is not None and self._monitor.running else "not watched"
        light, color = LIGHTS[status]
        reasons = " ".join(health.reasons) if health is not None else "Press Start."
        times_ms = [None if each.latency_s is None else each.latency_s * 1000 for each in seen]
        parts = [
            f'<div data-status="{status}" style="display:flex;align-items:center;gap:10px">'
            f'<span aria-hidden="true" style="font-size:22px;line-height:1;color:{color}">'
            f'{light}</span><b style="font-size:16px">{status}</b>'
            f"<span>{html.escape(self._client.endpoint or '')}</span></div>",
            f'<div style="min-height:1.4em">{_short(reasons)}</div>',
            '<div style="display:flex;gap:24px;flex-wrap:wrap">',
            _line("memory", "MiB", [each.memory_usage for each in seen], "#0072B2", live),
            _line("latency of a look", "ms", times_ms, "#D55E00", live),
            "</div>",
            f"<div>{' &nbsp;·&nbsp; '.join(self._facts(health))}</div>",
        ]
        if self._said:
            parts.append(f"<div><i>{_short(self._said)}</i></div>")
        return f'<div style="font-family:sans-serif;font-size:13px;line-height:1.6">{"".join(parts)}</div>'

    def _facts(self, health: Health | None) -> list[str]:
        state = self._client.breaker.state if self._client.breaker else "none"
        facts = [f"breaker <b>{state}</b>{BREAKER.get(state, '')}"]
        if self._client.metrics is not None:
            counts = self._client.metrics.snapshot()
            answered, cancelled = (counts.requests.get(word, 0) for word in ("ok", "cancelled"))
            failed = sum(counts.requests.values()) - answered - cancelled
            facts.append(
                f"requests <b>{answered}</b> answered, <b>{failed}</b> failed, "
                f"{counts.in_flight} under way, {counts.retries} retries"
            )
        if health is not None and health.uptime_s is not None:
            facts.append(f"up {health.uptime_s:.0f} s")
        if self._proxy is not None:
            facts.append(f"fault <b>{', '.join(map(str, self._proxy.faults)) or 'none'}</b>")
        return facts

    def _draw(self) -> None:
        self._view.value = self.html(live=True)

    def _switch(self, _: object) -> None:
        assert self._proxy is not None
        kind = self._fault.value
        rate = 1.0 if kind == "refused" else self._rate.value
        try:
            self._proxy.set_faults(*([] if kind == OFF else [Fault(kind, rate=rate)]))
            self._said = ""
        except FoundryError as error:
            self._said = str(error)
        self._draw()

    def _ask_in_background(self) -> None:
        """Send from a thread: a callback that waits would freeze the notebook."""
        self._said = "asking …"
        self._draw()
        threading.Thread(target=self._ask_once, name="dashboard-ask", daemon=True).start()

    def _ask_once(self) -> None:
        try:
            answer = self._client.complete("Say hello.", max_tokens=12, timeout=ASK_TIMEOUT_S)
            self._said = f"{answer.latency_s:.2f} s: {answer.content}"
        except FoundryError as error:
            self._said = f"{type(error).__name__}: {error}"
        self._draw()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = self.widget._repr_mimebundle_(**kwargs)
        return {**bundle, "text/html": self.html(), "text/plain": "HealthDashboard"}


def _short(text: str) -> str:
    """Return text cut between two words, as HTML."""
    return html.escape(textwrap.shorten(text, 260, placeholder=" …"))


def _line(name: str, unit: str, values: Sequence[float | None], color: str, live: bool) -> str:
    """Return a small line chart with its last value; gaps where nothing was measured.

    Args:
        live: the chart is an SVG element, which doesn't flicker when it is drawn anew. Else it's an image: of
            an SVG element, nothing is left where a notebook isn't trusted.
    """
    width, height = 260, 56
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    span = f"{low:.0f} to {high:.0f} {unit}" if known else "nothing measured"
    now = f"{values[-1]:.1f} {unit}" if values and values[-1] is not None else "?"
    alt = f"{name} over the last {len(values)} looks: {span}, now {now}"
    pad = max(0.05 * (high - low), 0.01 * high, 1e-9)
    low, high = max(0.0, low - pad), high + pad
    step = width / (SHOWN - 1)
    points = [
        "" if value is None else f"{x * step:.1f},{height - (value - low) / (high - low) * height:.1f}"
        for x, value in enumerate(values, SHOWN - len(values))
    ]
    lines = "".join(
        f'<polyline points="{" ".join(run)}" fill="none" stroke="{color}" stroke-width="2"/>'
        for measured, run in itertools.groupby(points, key=bool)
        if measured
    )
    chart = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img" '
        f'aria-label="{alt}"><rect width="100%" height="100%" fill="#888" fill-opacity=".13"/>{lines}</svg>'
    )
    if not live:
        data = base64.b64encode(chart.encode()).decode()
        chart = f'<img alt="{alt}" src="data:image/svg+xml;base64,{data}">'
    return f"<div>{name}: <b>{now}</b> ({span})<br>{chart}</div>"
