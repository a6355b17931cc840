"""Whether a machine of the running Ray is taken away soon.

Source: Ray 2.60, `ray/_private/worker.py`.
"""

import importlib
import time
from functools import lru_cache
from typing import Any


def is_drained() -> bool:
    """Whether Ray knows that the machine of this worker will be taken away soon.

    Cheap to call: Ray is queried once a second.
    """
    import ray

    return ray.get_runtime_context().get_node_id() in _draining(int(time.monotonic()))


def is_any_drained() -> bool:
    """Whether some machine of the running Ray will be taken away soon."""
    return bool(_draining(int(time.monotonic())))


@lru_cache(maxsize=1)
def _draining(second: int) -> frozenset[str]:
    """The machines that Ray drains, by their hexadecimal names."""
    inner: Any = importlib.import_module("ray._private.worker")
    return frozenset(inner.global_worker.gcs_client.get_draining_nodes())
