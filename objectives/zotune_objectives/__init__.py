"""The objectives that ship with zotune, registered as any plugin registers its own."""

from __future__ import annotations

from zotune.hookspecs import Register, hookimpl


@hookimpl
def register_objectives(register: Register) -> None:
    here = "zotune_objectives"
    register(
        "cross-entropy",
        f"{here}.cross_entropy:cross_entropy",
        summary="mean negative log-likelihood of the right answer; lower is better, one score a row",
    )
    register(
        "accuracy",
        f"{here}.accuracy:accuracy",
        summary="share of right predictions; higher is better, one score a row",
    )
    register(
        "f1",
        f"{here}.f1:F1",
        summary="F1 over the set: macro (default), micro, weighted or binary; higher is better",
        paper="sklearn.metrics.f1_score",
    )
    register(
        "mcc",
        f"{here}.mcc:mcc",
        summary="Matthews' correlation over the set, any number of classes; higher is better",
        paper="sklearn.metrics.matthews_corrcoef",
    )
    register(
        "perplexity",
        f"{here}.perplexity:perplexity",
        summary="exp of the mean cross-entropy of the right answers, over the set; lower is better",
    )
    register(
        "sklearn",
        f"{here}.scikit_learn:Sklearn",
        summary="any metric of scikit-learn by name, over the set: sklearn:balanced_accuracy; losses are minimized",
        paper="scikit-learn (arXiv:1201.0490)",
    )
    register(
        "token-f1",
        f"{here}.answers:token_f1",
        summary="tokens shared with the nearest right answer, as SQuAD counts; higher is better, one score a row",
        paper="SQuAD (arXiv:1606.05250)",
    )
    register(
        "exact-match",
        f"{here}.answers:exact_match",
        summary="share of answers that equal a right one, as SQuAD compares; higher is better, one score a row",
        paper="SQuAD (arXiv:1606.05250)",
    )
    register(
        "exec",
        f"{here}.exec_:Exec",
        summary="a program of yours, exec:./score.sh: a line of JSON a row in, a score a line out",
    )
    register(
        "http",
        f"{here}.http:Http",
        summary="a server of yours, http://host:port/path: JSON in and out, also that of known reward servers",
    )
    register(
        "https",
        f"{here}.http:Https",
        summary="the same over TLS",
    )
