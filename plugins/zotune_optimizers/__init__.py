"""The optimizers that ship with zotune, registered through the same entry point as any plugin's.

Each algorithm has a file of its own; option_checks, spsa, matrices, row_populations, step_effect, sparsity,
layer_ratios and the parts of auto hold what several of them share or one of them is built from. All of them import only
what zotune makes public, as a stranger's plugin does.
"""

from __future__ import annotations

from zotune.hookspecs import Register, hookimpl

# fmt: off
OPTIMIZERS = (
    # name, module and class, evaluations a step, extra memory,
    # summary,
    # paper
    ("auto", "auto:Auto", "2; once, for the calibration, 1 and 2 for each size tried", "none",
     "a direction for every row where text is generated, else two-point steps with calibrated sizes; the default",
     "SPSA (Spall 1992) with a running mean of g² and steps in units of the weights' RMS"),
    ("mezo", "mezo:MeZO", "2 n; one-point n", "none",
     "MeZO: n-SPSA, decoupled weight decay, learning-rate schedule",
     "Malladi et al. 2023, Fine-Tuning Language Models with Just Forward Passes, arXiv:2305.17333"),
    ("mezo-modified", "mezo_modified:MeZOModified",
     "2 n; with norms=gradient 2 × groups × samples more, once or each epoch", "none",
     "MeZO with variance- or expectation-modified estimates, by one number a group of tensors",
     "Malladi et al. 2023, arXiv:2305.17333, Appendices B.3 and B.4"),
    ("mezo-momentum", "mezo_momentum:MeZOMomentum", "2 n", "1 × the tuned weights; recomputed: none",
     "MeZO with a moving average of its estimates, stored or recomputed from the last K seeds and scalars",
     "Malladi et al. 2023, arXiv:2305.17333, Appendix B.2"),
    ("mezo-adam", "mezo_adam:MeZOAdam", "2 n", "2 × the tuned weights; recomputed: none",
     "MeZO with Adam's two moments, stored or recomputed from the last K seeds and scalars",
     "Malladi et al. 2023, arXiv:2305.17333, Appendix B.2"),
    ("zo-adamu", "zo_adamu:ZOAdaMU", "2", "1 × the tuned weights",
     "momentum and annealed uncertainty in the perturbation, or in the estimate",
     "Jiang et al. 2023, ZO-AdaMU Optimizer, arXiv:2312.15184"),
    ("zo-adamm", "zo_adamm:ZOAdaMM", "2", "2 × the tuned weights; adamm 3 ×, rmsgrad 1 ×",
     "Adam, AdamW, AdaMax, AdaMM or Rmsgrad on the estimate or on the perturbation",
     "Chen et al. 2019, ZO-AdaMM, arXiv:1910.06513; Table 3 of arXiv:2312.15184"),
    ("mezo-svrg", "mezo_svrg:MeZOSVRG",
     "4 p; every q-th step 2 p × rows / batch size", "1 × the tuned weights; recomputed: none",
     "variance reduction by a full-batch estimate every q steps, kept as one seed and one scalar",
     "Gautam et al. 2024, Variance-reduced Zeroth-Order Methods, arXiv:2404.08080"),
    ("zo-svrg", "zo_svrg:ZOSVRG", "4 × batch size, of one row each; every q-th step 2 × rows", "2 × the tuned weights",
     "variance reduction with a direction of its own for each row",
     "Liu et al. 2018, Zeroth-Order Stochastic Variance Reduction, arXiv:1805.10367"),
    ("sparse-mezo", "sparse_mezo:SparseMeZO", "2", "none; mask=constant 1 bit a tuned weight",
     "MeZO on the smallest weights of each matrix; with mask=random, R-MeZO",
     "Liu et al. 2024, Sparse MeZO, arXiv:2402.15751"),
    ("dizo", "dizo:DiZO",
     "2; every interval-th step 2 × iters more (mode=adam: times the projected tensors)",
     "1 × the projected tensors; other base: none",
     "MeZO with a learned projection of each query's and value's distance to the base model",
     "Tan et al. 2025, Harmony in Divergence, arXiv:2502.03304"),
    ("hizoo", "hizoo:HiZOO", "3", "1 × the tuned weights",
     "MeZO with a running diagonal of the Hessian",
     "Zhao et al. 2024, Second-Order Fine-Tuning without Pain, arXiv:2402.15173"),
    ("zo-sign", "zo_sgd:ZOSign", "2", "none",
     "steps of one length, by the sign of the slope",
     "Zhang et al. 2024, Revisiting Zeroth-Order Optimization (ZO-Bench), arXiv:2402.11592"),
    ("zo-conservative", "zo_sgd:ZOConservative", "5", "none",
     "the best of the current weights and a step either way",
     "Zhang et al. 2024, Revisiting Zeroth-Order Optimization (ZO-Bench), arXiv:2402.11592"),
    ("rank-sgd", "rank_sgd:RankSGD", "points; with a line search points + lines + 1", "none",
     "steps along differences of ranked points; for judges, people and noisy metrics",
     "Tang et al. 2024, Zeroth-Order Optimization Meets Human Feedback, arXiv:2303.03751"),
    ("es", "es:ES", "n; population=true: rows / batch size", "none",
     "evolution strategies: a population's directions, weighted by the z-scores of their rewards",
     "Qiu et al. 2025, Evolution Strategies at Scale, arXiv:2509.24372"),
    ("eggroll", "eggroll:Eggroll", "rows / batch size", "none",
     "a direction for every row of a batched pass: populations of low-rank members",
     "Sarkar et al. 2025, Evolution Strategies at the Hyperscale (EGGROLL), arXiv:2511.16652"),
    ("fzoo", "fzoo:FZOO", "n + 1; population=true: rows / batch size", "none",
     "one-sided perturbations of random signs, and steps divided by the standard deviation of the losses",
     "Dang et al. 2025, FZOO: Fast Zeroth-Order Optimizer, arXiv:2506.09034"),
    ("meazo", "meazo:MEAZO", "2 n", "none",
     "MeZO divided by the root of a running mean of g²: one scalar instead of Adam's second moment",
     "Dbouk et al. 2026, On Adaptivity in Zeroth-Order Optimization, arXiv:2605.03869"),
    ("lozo", "lozo:LOZO", "2", "none; with beta 1 × the tuned biases and norms",
     "MeZO along low-rank matrices in a subspace kept for many steps; with beta, LOZO-M",
     "Chen et al. 2024, Zeroth-order Fine-tuning with Low-rank Structures, arXiv:2410.07698"),
    ("zo-muon", "zo_muon:ZOMuon", "n + 1", "rank × (rows + columns) of each matrix while a pass is under way",
     "one-sided perturbations in a random subspace, orthogonalised: all directions of a matrix step equally far",
     "Lang et al. 2026, Subspace Gradient Orthogonalization, arXiv:2602.17155"),
    ("grzo", "grzo:GRZO", "2 × batch size, of one row each; population=true: 2", "none",
     "a direction for each row, weighted by its difference over the standard deviation of all",
     "Tan et al. 2026, GRZO: Group-Relative Zeroth-Order Optimization, arXiv:2606.02857"),
    ("cma", "cma_es:CMA", "n; by default 4 + 3 ln (rank × matrices)", "1 × the tuned matrices",
     "CMA-ES by pycma over the coefficients of a fixed low-rank basis; needs zotune[cma]",
     "Hansen and Ostermeier 2001, doi:10.1162/106365601750190398; ESSA, arXiv:2507.04453"),
    ("random-search", "random_search:RandomSearch", "n + 1", "none",
     "the best of N perturbations and the incumbent on one batch: the baseline",
     "(1+N) random search (Rastrigin 1963)"),
)
# fmt: on


@hookimpl
def register_optimizers(register: Register) -> None:
    for name, target, evaluations, memory, summary, paper in OPTIMIZERS:
        target = f"zotune_optimizers.{target}"
        register(name, target, summary=summary, paper=paper, forwards=evaluations, memory=memory)
