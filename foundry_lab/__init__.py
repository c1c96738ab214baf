"""Foundry Lab: Microsoft Foundry Local as a plain REST service, in a course of notebooks and a small package.

    from foundry_lab import FoundryAPIClient
    async with FoundryAPIClient() as client:
        print((await client.complete("Why is the sky blue?", max_tokens=80)).content)

Names are loaded when they are first used, so that importing the package costs next to nothing. `__init__.pyi`
says which there are, and where they are at home.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [name for name in _names if name not in ("errors", "plots", "widgets")]  # which are modules
