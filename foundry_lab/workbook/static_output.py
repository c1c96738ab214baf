"""What a run leaves in a notebook: taken out again, or in a form that one sees without a kernel."""

import html
from collections.abc import Mapping
from typing import Any

from nbformat import NotebookNode

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


def forget_run(book: NotebookNode) -> None:
    """Make a notebook one that was never run."""
    book.metadata.pop("widgets", None)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("execution", None)


def freeze(book: NotebookNode) -> None:
    """Put the static form of each widget that has one in its place.

    In a saved notebook, on a code host or on a page read offline, a live view needs a kernel, or scripts from
    the network and the widget's stored state; an HTML representation or the last words of a progress bar need
    nothing. Other widgets stay as they are.
    """
    states = book.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    live = False
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if VIEW not in data:
                continue
            if words := _last_words(states, data[VIEW]["model_id"]):
                data["text/plain"] = words
            if words or "text/html" in data:
                del data[VIEW]
            else:
                live = True
    if not live:
        book.metadata.pop("widgets", None)


def _last_words(states: Mapping[str, Any], model_id: str) -> str:
    """Return what tqdm's bar says at its end, without the bar; nothing for other widgets."""
    children = states.get(model_id, {}).get("state", {}).get("children", ())
    parts = [states.get(child.removeprefix("IPY_MODEL_"), {}) for child in children]
    if not any(part.get("model_name") == "FloatProgressModel" for part in parts):
        return ""
    texts = [part["state"].get("value", "") for part in parts if part.get("model_name") == "HTMLModel"]
    return " ".join(html.unescape(" ".join(texts)).split())
