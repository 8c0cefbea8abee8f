"""The hooks: this module is light, and the strings are imported when they are used."""

from zotune import hookimpl
from zotune.hookspecs import Register


@hookimpl
def register_optimizers(register: Register) -> None:
    register(
        "brisk",
        "zotune_brisk.optimizer:Brisk",
        summary="sign descent with a decaying learning rate",
        forwards="2",
        memory="none",
    )


@hookimpl
def register_objectives(register: Register) -> None:
    register("recall", "zotune_brisk.objective:recall", summary="lowest recall of all classes; higher is better")
