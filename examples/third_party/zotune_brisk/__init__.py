"""The hooks: light, nothing heavy is imported here."""

from zotune import hookimpl


@hookimpl
def register_optimizers(register):
    register("brisk", "zotune_brisk.optimizer:Brisk", summary="sign descent with a decaying step", forwards="2")


@hookimpl
def register_objectives(register):
    register("recall", "zotune_brisk.objective:recall", summary="worst class recall; higher is better")
