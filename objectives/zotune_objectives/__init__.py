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
        summary="a server of yours over TLS, https://host/path; see http",
    )
    register(
        "reward-model",
        f"{here}.reward_model:RewardModel",
        summary="a model with a classification head, reward-model:./folder: its logit, or a label's probability",
    )
    for name, target, what in (("drop-f1", "DropF1", "tokens shared with"), ("drop-em", "DropExactMatch", "equal to")):
        register(
            name,
            f"{here}.drop:{target}",
            summary=f"{what} the nearest right answer, numbers and several spans as DROP; higher is better, one a row",
            paper="DROP (arXiv:1903.00161)",
        )
    for name, target, what in (
        ("rouge1", "Rouge1", "words"),
        ("rouge2", "Rouge2", "pairs of words"),
        ("rougeL", "RougeL", "the longest common subsequence of words"),
        ("rougeLsum", "RougeLsum", "common subsequences of lines"),
    ):
        register(
            name,
            f"{here}.rouge:{target}",
            summary=f"F-measure of {what}, in any script; higher is better, one score a row",
            paper="Lin 2004, ROUGE",
        )
    register(
        "bleu",
        f"{here}.translation:Bleu",
        summary="sacreBLEU's BLEU over the set, 0 to 100; higher is better (zotune[text])",
        paper="Papineni et al. 2002; sacreBLEU (arXiv:1804.08771)",
    )
    register(
        "chrf",
        f"{here}.translation:Chrf",
        summary="sacreBLEU's chrF over the set, 0 to 100, or chrF++; higher is better (zotune[text])",
        paper="Popović 2015; sacreBLEU (arXiv:1804.08771)",
    )
    register(
        "length",
        f"{here}.length:Length",
        summary="words, characters or tokens of completions, or the distance to a target; lower is better, one a row",
    )
    register(
        "regex",
        f"{here}.regex:Regex",
        summary="share of completions that match, regex:'^[0-9]+$'; higher is better, one score a row",
    )
    register(
        "contains",
        f"{here}.contains:Contains",
        summary="share of completions that contain a text, contains:happy; higher is better, one score a row",
    )
    register(
        "preference",
        f"{here}.preference:Preference",
        summary="share of pairs in which the chosen completion is likelier than the rejected, or their mean margin",
        paper="DPO (arXiv:2305.18290), its implicit reward",
    )
    register(
        "judge",
        f"{here}.judge:Judge",
        summary="judge:file.py:function says which of two completions is better; an order, no values",
    )
    register(
        "human",
        f"{here}.human:Human",
        summary="a person says which completion is better, on a local page or in the terminal; an order, no values",
        paper="ZO-RankSGD (arXiv:2303.03751)",
    )
