"""The embedded service: model preparation, the service process and its discovery.

The names in `__init__.pyi` are loaded when they are used: importing this brings neither onnx nor the SDK.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
