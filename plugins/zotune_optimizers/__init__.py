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
        "mezo-momentum",
        f"{here}.mezo_adam:MeZOMomentum",
        summary="MeZO with a moving average of its estimates, stored or recomputed from the last K seeds and scalars",
        paper="Malladi et al. 2023, arXiv:2305.17333, Appendix B.2",
        forwards="2 n",
        memory="1 × the tuned weights; recomputed: none",
    )
    register(
        "mezo-adam",
        f"{here}.mezo_adam:MeZOAdam",
        summary="MeZO with Adam's two moments, stored or recomputed from the last K seeds and scalars",
        paper="Malladi et al. 2023, arXiv:2305.17333, Appendix B.2",
        forwards="2 n",
        memory="2 × the tuned weights; recomputed: none",
    )
    register(
        "zo-adamu",
        f"{here}.zo_adamu:ZOAdaMU",
        summary="momentum and annealed uncertainty in the perturbation itself",
        paper="Jiang et al. 2023, ZO-AdaMU Optimizer, arXiv:2312.15184",
        forwards="2",
        memory="1 × the tuned weights",
    )
    register(
        "zo-adamm",
        f"{here}.zo_adamm:ZOAdaMM",
        summary="Adam, AdamW, AdaMax or AdaMM on the estimate or on the perturbation",
        paper="Chen et al. 2019, ZO-AdaMM, arXiv:1910.06513; Table 3 of arXiv:2312.15184",
        forwards="2",
        memory="2 × the tuned weights; adamm 3 ×",
    )
    register(
        "mezo-svrg",
        f"{here}.mezo_svrg:MeZOSVRG",
        summary="variance reduction by a full-batch estimate every q steps, as one seed and one scalar",
        paper="Gautam et al. 2024, Variance-reduced Zeroth-Order Methods, arXiv:2404.08080",
        forwards="4; every q-th step 2 × rows / batch",
        memory="1 × the tuned weights; recomputed: none",
    )
    register(
        "zo-svrg",
        f"{here}.zo_svrg:ZOSVRG",
        summary="variance reduction with a direction of its own for each row",
        paper="Liu et al. 2018, Zeroth-Order Stochastic Variance Reduction, arXiv:1805.10367",
        forwards="4 × batch, of one row each; every q-th step 2 × rows",
        memory="2 × the tuned weights",
    )
    register(
        "sparse-mezo",
        f"{here}.sparse_mezo:SparseMeZO",
        summary="MeZO on the smallest weights of each matrix alone; with mask=random, R-MeZO",
        paper="Liu et al. 2024, Sparse MeZO, arXiv:2402.15751",
        forwards="2",
        memory="none; mask=constant 1 × the tuned weights",
    )
    register(
        "dizo",
        f"{here}.dizo:DiZO",
        summary="MeZO with a learned projection of each query's and value's distance to the pretrained weights",
        paper="Tan et al. 2025, Harmony in Divergence, arXiv:2502.03304",
        forwards="2; every interval-th step 2 × iters more (mode=adam: times the projected tensors)",
        memory="1 × the projected tensors",
    )
    register(
        "hizoo",
        f"{here}.hizoo:HiZOO",
        summary="MeZO with a running diagonal of the Hessian",
        paper="Zhao et al. 2024, Second-Order Fine-Tuning without Pain, arXiv:2402.15173",
        forwards="3",
        memory="1 × the tuned weights",
    )
    register(
        "zo-sign",
        f"{here}.zo_sgd:ZOSign",
        summary="steps of one length, by the sign of the slope",
        paper="Zhang et al. 2024, Revisiting Zeroth-Order Optimization (ZO-Bench), arXiv:2402.11592",
        forwards="2",
        memory="none",
    )
    register(
        "zo-conservative",
        f"{here}.zo_sgd:ZOConservative",
        summary="the best of the weights as they are and a step either way",
        paper="Zhang et al. 2024, Revisiting Zeroth-Order Optimization (ZO-Bench), arXiv:2402.11592",
        forwards="5",
        memory="none",
    )
    register(
        "rank-sgd",
        f"{here}.rank_sgd:RankSGD",
        summary="steps along differences of ordered points; for rankings, judges and people, and for noisy metrics",
        paper="Tang et al. 2024, Zeroth-Order Optimization Meets Human Feedback, arXiv:2303.03751",
        forwards="points; with a line search points + lines + 1",
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
