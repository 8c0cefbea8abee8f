"""The built-in trackers of zotune: names and summaries. Each module imports its library when a run uses it."""

from __future__ import annotations

from zotune import hookimpl
from zotune.hookspecs import Register


@hookimpl
def register_trackers(register: Register) -> None:
    register(
        "tensorboard",
        "zotune_trackers.tensorboard_tracker:TensorBoard",
        summary="event files in the run directory; tensorboard:FOLDER writes to FOLDER",
    )
    register(
        "trackio",
        "zotune_trackers.trackio_tracker:Trackio",
        summary="local experiments of trackio; trackio:PROJECT names the project",
    )
    register(
        "wandb",
        "zotune_trackers.wandb_tracker:WandB",
        summary="Weights & Biases; wandb:PROJECT names the project",
    )
