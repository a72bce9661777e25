"""Units of work on a Ray cluster, through Ray Data (the extra `ray`).

Each machine has `ling` and sees the sources and the output folder under the same paths.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Sequence
from typing import Any

from ..errors import InputError, LingError, RunError, UsageError
from .pool import Task
from .progress import Progress
from .units import Unit

# Our words, not Ray's, and nothing is sent to its makers.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}


def run_units_on_ray(task: Task[Any], units: Sequence[Unit], progress: Progress) -> None:
    """Run `task` on all units, one on each processor of the cluster at a time.

    The cluster is that of `RAY_ADDRESS`, one that runs here, or a new one on this machine. Raises
    what the task raises, `UsageError` without Ray or a cluster, `RunError` when Ray gives up.
    """
    if not units:
        return
    ray = _started()
    rows = [{"work": pickle.dumps((task, unit)), "size": unit.size} for unit in units]
    try:
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        for row in dataset.map(_run, num_cpus=1).iter_rows():
            if row["error"]:
                raise (UsageError if row["is_input"] else RunError)(row["error"])
            progress.add(row["size"])
    except ray.exceptions.RayError as err:
        reason = str(err).strip().splitlines()[-1][:200]
        raise RunError(
            f"Ray gave up ({reason}); the same command continues where it ended"
        ) from None
    finally:
        ray.shutdown()


def _started() -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError:
        raise UsageError("`--ray` needs Ray: pip install 'ling[ray]'") from None
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as err:
        reason = str(err).strip().splitlines()[0][:200]
        raise UsageError(f"`--ray`: no cluster ({reason}); see RAY_ADDRESS") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _run(row: dict[str, Any]) -> dict[str, Any]:
    """One unit, in a process of the cluster."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # read by the tokenizer library at first use
    error, is_input = "", False
    task, unit = pickle.loads(row["work"])
    try:
        task(unit, lambda count: None)
    except LingError as err:
        error, is_input = str(err), isinstance(err, InputError)
    return {"size": row["size"], "error": error, "is_input": is_input}
