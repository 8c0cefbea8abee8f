"""The objectives that ship with zotune.

Each is one module. They are registered through the entry point that any plugin uses, and they import only public
modules of zotune.
"""

from __future__ import annotations

from zotune.hookspecs import Register, hookimpl


@hookimpl
def register_objectives(register: Register) -> None:
    here = "zotune_objectives"
    register(
        "cross-entropy",
        f"{here}.cross_entropy:cross_entropy",
        summary="mean negative log-likelihood of the label or reference; lower is better, one score per row",
    )
    register(
        "accuracy",
        f"{here}.accuracy:accuracy",
        summary="share of correct predictions; higher is better, one score per row",
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
        summary="Matthews correlation over the set, any number of classes; higher is better",
        paper="sklearn.metrics.matthews_corrcoef",
    )
    register(
        "perplexity",
        f"{here}.perplexity:perplexity",
        summary="exponential of the mean cross-entropy over the set; lower is better",
    )
    register(
        "sklearn",
        f"{here}.scikit_learn:Sklearn",
        summary="any classification metric of scikit-learn over the set, sklearn:f1_macro; losses are minimized",
        paper="scikit-learn (arXiv:1201.0490)",
    )
    register(
        "token-f1",
        f"{here}.answers:TokenF1",
        summary="F1 of tokens with the best reference (normalize=squad: as in SQuAD); one score per row",
        paper="SQuAD (arXiv:1606.05250)",
    )
    register(
        "exact-match",
        f"{here}.answers:ExactMatch",
        summary="share of completions equal to a reference (normalize=squad: as in SQuAD); one score per row",
        paper="SQuAD (arXiv:1606.05250)",
    )
    register(
        "exec",
        f"{here}.exec_:Exec",
        summary="your program, exec:./score.sh: reads one JSON line per row, writes one score per line",
    )
    register(
        "http",
        f"{here}.http:Http",
        summary="your server, http://host:port/path: JSON in and out; also vLLM, SGLang, TEI, OpenRLHF",
    )
    register(
        "https",
        f"{here}.http:Https",
        summary="your server over TLS, https://host/path; options as for http",
    )
    register(
        "reward-model",
        f"{here}.reward_model:RewardModel",
        summary="a model with a classification head, reward-model:./folder: its logit or the probability of a label",
    )
    for name, target, what in (("drop-f1", "DropF1", "F1 of tokens"), ("drop-em", "DropExactMatch", "exact match")):
        register(
            name,
            f"{here}.drop:{target}",
            summary=f"{what} with the best reference, as in DROP; higher is better, one score per row",
            paper="DROP (arXiv:1903.00161)",
        )
    for name, target, what in (
        ("rouge1", "Rouge1", "words"),
        ("rouge2", "Rouge2", "pairs of words"),
        ("rougeL", "RougeL", "the longest common subsequence of words"),
        ("rougeLsum", "RougeLsum", "the longest common subsequences of lines"),
    ):
        register(
            name,
            f"{here}.rouge:{target}",
            summary=f"F-measure of {what}, for any language; higher is better, one score per row",
            paper="Lin 2004, ROUGE",
        )
    register(
        "bleu",
        f"{here}.translation:Bleu",
        summary="BLEU of sacreBLEU over the set, 0 to 100; higher is better; needs zotune[text]",
        paper="Papineni et al. 2002; sacreBLEU (arXiv:1804.08771)",
    )
    register(
        "chrf",
        f"{here}.translation:Chrf",
        summary="chrF or chrF++ of sacreBLEU over the set, 0 to 100; higher is better; needs zotune[text]",
        paper="Popović 2015; sacreBLEU (arXiv:1804.08771)",
    )
    register(
        "length",
        f"{here}.length:Length",
        summary="words, characters or tokens, or the distance from a target; lower is better, one score per row",
    )
    register(
        "regex",
        f"{here}.regex:Regex",
        summary="share of completions that match, regex:'^[0-9]+$'; higher is better, one score per row",
    )
    register(
        "contains",
        f"{here}.contains:Contains",
        summary="share of completions that contain a text, contains:happy; higher is better, one score per row",
    )
    register(
        "json",
        f"{here}.json_schema:JsonSchema",
        summary="share of completions that are JSON of a schema, json:schema.json or by the column schema; per row",
        paper="JSON Schema, a subset",
    )
    register(
        "final-number",
        f"{here}.final_number:FinalNumber",
        summary="share of completions whose final number is the reference's (#### or boxed first); one score per row",
        paper="GSM8K (arXiv:2110.14168)",
    )
    register(
        "countdown",
        f"{here}.countdown:Countdown",
        summary="0.1 for an answer in its tags and 1 for an expression with the target's value; one score per row",
        paper="TinyZero",
    )
    register(
        "concise",
        f"{here}.concise:Concise",
        summary="0 without the reference's words, else higher the fewer others there are; one score per row",
    )
    register(
        "vader",
        f"{here}.vader:Vader",
        summary="tone by VADER's lexicon, -1 to 1, in English; one score per row; needs zotune[text]",
        paper="Hutto and Gilbert 2014, VADER",
    )
    register(
        "grader",
        f"{here}.grader:Grader",
        summary="an OpenAI grader file, grader:grader.json: string_check, text_similarity, python, multi; per row",
        paper="OpenAI API reference, graders",
    )
    register(
        "preference",
        f"{here}.preference:Preference",
        summary="share of pairs in which the chosen completion is more likely than the rejected, or the mean margin",
        paper="DPO (arXiv:2305.18290), implicit reward",
    )
    register(
        "judge",
        f"{here}.judge:Judge",
        summary="your function judge:file.py:function compares two completions; gives an order, no values",
    )
    register(
        "human",
        f"{here}.human:Human",
        summary="a person compares completions on a local page or in the terminal; gives an order, no values",
        paper="ZO-RankSGD (arXiv:2303.03751)",
    )
