"""Processes that read data: they end with the one that they read for."""

import functools
import os
import threading
import time

from torch.utils.data import get_worker_info

_SECONDS_BETWEEN_LOOKS = 1.0


def end_with_parent() -> None:
    """
    In a worker of a `DataLoader`, ends it when its parent is gone; elsewhere it does nothing. To be called with any
    batch, of which the first starts the watch.

    A worker whose parent was killed would wait for ever: PyTorch's own watch looks only between two batches, and a
    batch that nobody takes is never handed over.
    """
    if get_worker_info() is not None:
        _watch()


@functools.cache
def _watch() -> None:
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


__all__ = ["end_with_parent"]
