"""One template for the kernels of every runner of this process: what a kernel imports is imported once, not at each start."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from helpers.run.kernel import KernelTemplate
from helpers.runner.pipeline import every_kernel

_made: list[KernelTemplate] = []


def template() -> KernelTemplate:
    """The template of this process; a new one where it has ended."""
    if not _made or _made[-1].process.poll() is not None:
        _made.append(KernelTemplate(every_kernel()))
        atexit.register(_made[-1].close)
    return _made[-1]


@contextmanager
def shared(steps: Any) -> Iterator[KernelTemplate]:
    """In the place of `pipeline.kernel_template`, whatever the steps are; its kernels are the same."""
    yield template()
