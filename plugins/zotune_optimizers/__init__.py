"""The optimizers that ship with zotune, registered as any plugin registers its own."""

from __future__ import annotations

from zotune.hookspecs import Register, hookimpl


@hookimpl
def register_optimizers(register: Register) -> None:
    here = "zotune_optimizers"
    register(
        "auto",
        f"{here}.auto:Auto",
        summary="two-point, scale-free steps with calibrated ε and capped displacement; the default",
        paper="SPSA (Spall 1992) with a running mean of g² and steps in units of the weights' RMS",
        forwards="2, and 3 to 2 × doublings + 1 once for ε",
        memory="none",
    )
    register(
        "mezo",
        f"{here}.mezo:MeZO",
        summary="MeZO: n-SPSA, decoupled weight decay, learning-rate schedule",
        paper="Malladi et al. 2023, Fine-Tuning Language Models with Just Forward Passes, arXiv:2305.17333",
        forwards="2 n",
        memory="none",
    )
    register(
        "random-search",
        f"{here}.random_search:RandomSearch",
        summary="best of N perturbations and the incumbent, on one batch: the baseline to beat",
        paper="(1+N) random search (Rastrigin 1963)",
        forwards="n + 1",
        memory="none",
    )
