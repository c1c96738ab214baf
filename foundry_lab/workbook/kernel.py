"""Kernels that run the interpreter this package is installed in."""

import os

from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpec, KernelSpecManager


class ThisPythonSpecManager(KernelSpecManager):
    """Kernel specs in which `python3` is this interpreter, whatever is registered under that name."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        if kernel_name == NATIVE_KERNEL_NAME:
            return self.kernel_spec_class(resource_dir=RESOURCES, **get_kernel_dict())
        return super().get_kernel_spec(kernel_name)


UNATTENDED = "FOUNDRY_LAB_UNATTENDED"
"""Set in kernels that nobody sits in front of, so that a run of the solutions isn't taken for progress."""


def environment() -> dict[str, str]:
    """Return the environment of a kernel that runs by itself: ours, with plots whatever MPLBACKEND says."""
    return {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline", UNATTENDED: "1"}
