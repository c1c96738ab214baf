"""The loopback catalog: tells Foundry Local that the prepared model exists.

The service lists and serves only models of its catalogs, so the service process runs one of its own. The
schema is no published contract: it was read off foundry-local-sdk 2.2.1, and
`tests/integration/test_service_catalog.py` fails when another version stops taking it.
"""

from typing import Any

import msgspec
from aiohttp import web

from foundry_lab.engine import paths, spec

CATALOG_ROUTE = "/asset-gallery/v1.0/models"
"""The SDK accepts only catalog addresses that end so."""

_REGISTRY = "azureml://registries/azureml/models"


class _Filter(msgspec.Struct):
    field: str
    values: list[str] = []


class _Query(msgspec.Struct):
    """The part of a catalog query that matters here; `type`, `device` and so on always fit our model."""

    filters: list[_Filter] = []


def model_summary(size_bytes: int) -> dict[str, Any]:
    """Return the catalog entry of the prepared model.

    Args:
        size_bytes: of all files together.
    """
    variant = {
        "parents": [
            {"assetId": f"{_REGISTRY}/{spec.NAME.removesuffix('-generic-cpu')}/versions/{spec.VERSION}"}
        ],
        "variantMetadata": {
            "modelType": "ONNX",
            "device": "cpu",
            "executionProvider": "CPUExecutionProvider",
            "fileSizeBytes": size_bytes,
        },
    }
    return {
        "assetId": f"{_REGISTRY}/{spec.NAME}/versions/{spec.VERSION}",
        "name": spec.NAME,
        "version": spec.VERSION,
        "alias": spec.ALIAS,
        "displayName": spec.DISPLAY_NAME,
        "publisher": spec.PUBLISHER,
        "license": spec.LICENSE,
        "licenseDescription": f"{spec.DISPLAY_NAME} is published under {spec.LICENSE}.",
        "minFLVersion": "2.0.0",
        "inferenceTasks": ["chat-completion"],
        "modelCapabilities": [],
        "deploymentOptions": ["Foundry Local on Devices"],
        "modelLimits": {
            "supportedInputModalities": ["text"],
            "supportedOutputModalities": ["text"],
            "textLimits": {"inputContextWindow": spec.CONTEXT_LENGTH, "maxOutputTokens": spec.CONTEXT_LENGTH},
        },
        "createdTime": "2024-11-02T00:00:00Z",  # the model's release
        "variantInfo": variant,
        "variantInformation": variant,
    }


def find_models(query: bytes, size_bytes: int) -> dict[str, Any]:
    """Answer a catalog query: our model, unless the query asks for another name.

    Raises:
        ValueError: the query isn't JSON of the catalog's shape.
    """
    filters = msgspec.json.decode(query, type=_Query).filters
    wanted = all(spec.NAME in item.values for item in filters if item.field == "name")
    summaries = [model_summary(size_bytes)] if wanted else []
    return {"summaries": summaries, "totalCount": len(summaries)}


async def handle_query(request: web.Request) -> web.Response:
    """aiohttp handler of `POST CATALOG_ROUTE`."""
    size = sum(file.stat().st_size for file in paths.model_dir().glob("*"))
    try:
        return web.json_response(find_models(await request.read(), size))
    except (ValueError, RecursionError) as error:  # no JSON of this shape, or too deep
        return web.json_response({"error": str(error)}, status=400)
