"""The objectives that ship: each against the official implementation, or worked by hand, with the odd cases."""

from __future__ import annotations

import math
import random
import sys
import warnings
from typing import Any

import pytest
import torch

from zotune import plugins
from zotune.errors import ObjectiveError, OptionError
from zotune.scoring import objective_spec


def scored(name: str, options: dict[str, Any] | None = None, **inputs: Any) -> float:
    rows = len(next(iter(inputs.values())))
    return objective_spec.resolve(name, options or {}).score(rows, inputs).value


def drawn(seed: int, classes: int, rows: int) -> tuple[list[int], list[int], torch.Tensor]:
    rng = random.Random(seed)
    gold = [rng.randrange(classes) for _ in range(rows)]
    found = [rng.randrange(classes) for _ in range(rows)]
    return gold, found, torch.tensor([[rng.gauss(0, 2) for _ in range(classes)] for _ in range(rows)])


# -- perplexity --------------------------------------------------------------------------------------------------------


def test_perplexity_of_an_even_choice_is_the_number_of_choices() -> None:
    assert scored("perplexity", losses=[math.log(4), math.log(4)]) == pytest.approx(4)
    assert scored("perplexity", losses=[math.log(2), None, math.log(8)]) == pytest.approx(4)
    assert scored("perplexity", losses=[0.0]) == 1
    assert objective_spec.resolve("perplexity", {}).direction == "minimize"


@pytest.mark.parametrize(("losses", "said"), [([None, None], "no row has a right answer"), ([1e4], "OverflowError")])
def test_perplexity_without_a_value_is_no_number(losses: list[float | None], said: str) -> None:
    with pytest.raises(ObjectiveError, match=said):
        scored("perplexity", losses=losses)


# -- Matthews' correlation, F1 -----------------------------------------------------------------------------------------


def test_mcc_equals_scikit_learn() -> None:
    from sklearn.metrics import matthews_corrcoef

    for trial in range(50):
        gold, found, _ = drawn(trial, 2 + trial % 4, 2 + trial % 30)
        assert scored("mcc", predictions=found, labels=gold) == pytest.approx(matthews_corrcoef(gold, found), abs=1e-12)


def test_mcc_of_unknown_predictions() -> None:
    assert scored("mcc", predictions=[0, 1, 0, 1], labels=[0, 1, 0, 1]) == 1
    assert scored("mcc", predictions=[1, 0, 1, 0], labels=[0, 1, 0, 1]) == -1
    # s = 4, c = 3, predicted 1, 2 times and one None, right 2 and 2: (12 − 6) / √((16 − 6)(16 − 8))
    assert scored("mcc", predictions=[0, None, 1, 1], labels=[0, 0, 1, 1]) == pytest.approx(6 / math.sqrt(80))
    assert scored("mcc", predictions=[0, 7, 1, 1], labels=[0, 0, 1, 1]) == pytest.approx(6 / math.sqrt(80))
    assert scored("mcc", predictions=[None, None], labels=[0, 1]) == 0  # one class alone
    assert scored("mcc", predictions=[0, 1, 1], labels=[0, 1, -1]) == 1  # a row without a right class
    with pytest.raises(ObjectiveError, match="no row has a right class"):
        scored("mcc", predictions=[0], labels=[-1])


def test_averages_of_f1_with_an_unknown_prediction() -> None:
    """Class 0: TP 1, FN 1, F1 2/3. Class 1: TP 2, F1 1."""
    rows = {"predictions": [0, None, 1, 1], "labels": [0, 0, 1, 1]}
    assert scored("f1", {"average": "macro"}, **rows) == pytest.approx(5 / 6)
    assert scored("f1", {"average": "weighted"}, **rows) == pytest.approx(5 / 6)
    assert scored("f1", {"average": "micro"}, **rows) == pytest.approx(6 / 7)
    assert scored("f1", {"average": "weighted"}, predictions=[None], labels=[2]) == 0


# -- scikit-learn ------------------------------------------------------------------------------------------------------


def official(name: str, gold: list[int], found: list[int], logits: torch.Tensor) -> float:
    """The number as one would write it with scikit-learn."""
    from sklearn import metrics as m

    p = logits.double().softmax(-1).numpy()
    classes = list(range(p.shape[1]))
    table: dict[str, Any] = {
        "accuracy": lambda: m.accuracy_score(gold, found),
        "balanced_accuracy": lambda: m.balanced_accuracy_score(gold, found),
        "cohen_kappa": lambda: m.cohen_kappa_score(gold, found),
        "matthews_corrcoef": lambda: m.matthews_corrcoef(gold, found),
        "hamming_loss": lambda: m.hamming_loss(gold, found),
        "zero_one_loss": lambda: m.zero_one_loss(gold, found),
        "log_loss": lambda: m.log_loss(gold, p, labels=classes),
        "d2_log_loss": lambda: m.d2_log_loss_score(gold, p, labels=classes),
        "top_k_accuracy": lambda: m.top_k_accuracy_score(gold, p if len(classes) > 2 else p[:, 1], k=2, labels=classes),
    }
    for average in ("macro", "micro", "weighted"):
        table[f"f1_{average}"] = lambda a=average: m.f1_score(gold, found, average=a, zero_division=0)
        table[f"jaccard_{average}"] = lambda a=average: m.jaccard_score(gold, found, average=a, zero_division=0)
        table[f"recall_{average}"] = lambda a=average: m.recall_score(gold, found, average=a, zero_division=0)
        table[f"precision_{average}"] = lambda a=average: m.precision_score(gold, found, average=a, zero_division=0)
        table[f"fbeta_{average}"] = lambda a=average: m.fbeta_score(gold, found, beta=1, average=a, zero_division=0)
    if len(classes) == 2:
        table |= {
            "f1": lambda: m.f1_score(gold, found, zero_division=0),
            "precision": lambda: m.precision_score(gold, found, zero_division=0),
            "recall": lambda: m.recall_score(gold, found, zero_division=0),
            "jaccard": lambda: m.jaccard_score(gold, found, zero_division=0),
            "fbeta": lambda: m.fbeta_score(gold, found, beta=1, zero_division=0),
            "roc_auc": lambda: m.roc_auc_score(gold, p[:, 1]),
            "average_precision": lambda: m.average_precision_score(gold, p[:, 1]),
            "brier_score_loss": lambda: m.brier_score_loss(gold, p[:, 1]),
        }
    else:
        ovr = lambda average: m.roc_auc_score(gold, p, multi_class="ovr", average=average)  # noqa: E731
        ovo = lambda average: m.roc_auc_score(gold, p, multi_class="ovo", average=average)  # noqa: E731
        table |= {
            "roc_auc": lambda: ovr("macro"),
            "roc_auc_ovr": lambda: ovr("macro"),
            "roc_auc_ovr_weighted": lambda: ovr("weighted"),
            "roc_auc_ovo": lambda: ovo("macro"),
            "roc_auc_ovo_weighted": lambda: ovo("weighted"),
            "average_precision": lambda: m.average_precision_score(gold, p),
            "brier_score_loss": lambda: m.brier_score_loss(gold, p, labels=classes),
        }
    if hasattr(m, "d2_brier_score"):
        table["d2_brier"] = lambda: m.d2_brier_score(gold, p if len(classes) > 2 else p[:, 1], labels=classes)
    return float(table[name]()) if name in table else math.nan


def short_names() -> list[str]:
    from zotune_objectives.scikit_learn import known

    return sorted(known())


@pytest.mark.parametrize("name", short_names())
def test_metrics_by_name_equal_scikit_learn(name: str) -> None:
    compared = 0
    for trial, classes in enumerate((2, 3, 5, 2, 3)):
        gold, found, logits = drawn(trial, classes, 60)
        loss = name.removeprefix("neg_").replace("brier_score", "brier_score_loss") if "neg_" in name else name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # top 2 of 2 classes
            expected = official(loss.replace("_loss_loss", "_loss"), gold, found, logits)
        if math.isnan(expected):
            continue
        value = scored(f"sklearn:{name}", predictions=found, labels=gold, logits=logits)
        assert value == pytest.approx(-expected if name.startswith("neg_") else expected, abs=1e-12)
        compared += 1
    assert compared >= 2, "nothing was compared"


def test_every_scorer_of_classifications_is_known_and_no_other() -> None:
    from sklearn.metrics import get_scorer_names

    refused = set()
    for name in get_scorer_names():
        try:
            objective_spec.resolve(f"sklearn:{name}", {})
        except OptionError:
            refused.add(name)
    kept = set(get_scorer_names()) - refused
    assert {"f1_macro", "balanced_accuracy", "neg_log_loss", "roc_auc", "neg_brier_score", "jaccard_weighted"} <= kept
    regression = {"r2", "explained_variance", "neg_max_error", "d2_absolute_error_score"}
    regression |= {n for n in refused if "mean_" in n or "median_" in n}
    clustering = {"completeness_score", "fowlkes_mallows_score", "homogeneity_score", "v_measure_score", "rand_score"}
    clustering |= {n for n in refused if "mutual_info" in n or "adjusted_rand" in n}
    several_labels = {n for n in refused if n.endswith("_samples")}
    ratios = {"positive_likelihood_ratio", "neg_negative_likelihood_ratio"}  # without a value on many small batches
    assert refused == regression | clustering | several_labels | ratios


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("balanced_accuracy", "maximize"),
        ("balanced-accuracy", "maximize"),
        ("log_loss", "minimize"),
        ("log", "minimize"),
        ("zero_one_loss", "minimize"),
        ("brier", "minimize"),
        ("brier_score_loss", "minimize"),
        ("neg_brier_score", "maximize"),
        ("neg_log_loss", "maximize"),
        ("roc_auc_score", "maximize"),
        ("d2_log_loss_score", "maximize"),
    ],
)
def test_the_better_direction_follows_from_the_name(metric: str, direction: str) -> None:
    goal = objective_spec.resolve(f"sklearn:{metric}", {})
    assert goal.direction == direction
    assert goal.info.level == "set"
    other = "minimize" if direction == "maximize" else "maximize"
    assert objective_spec.resolve(f"sklearn:{metric}", {}, other).direction == other


def test_only_probabilities_ask_for_logits() -> None:
    """Who asks for logits is not smoothed."""
    assert objective_spec.resolve("sklearn:f1_macro", {}).wants == {"predictions", "labels"}
    assert objective_spec.resolve("sklearn:roc_auc", {}).wants == {"logits", "labels"}
    assert objective_spec.resolve("sklearn:roc_auc", {}).required == {"logits", "labels"}
    assert not objective_spec.resolve("sklearn:roc_auc", {}).open


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 3 / 4),
        ("balanced_accuracy", 3 / 4),
        ("zero_one_loss", 1 / 4),
        ("f1_macro", 5 / 6),
        ("f1_micro", 6 / 7),
        ("f1", 1.0),  # class 1
        ("recall_macro", 3 / 4),
        ("precision_macro", 1.0),  # the unknown one is nobody's false alarm
        ("jaccard_macro", 3 / 4),
        ("matthews_corrcoef", 6 / math.sqrt(80)),
        ("cohen_kappa", (3 / 4 - 6 / 16) / (1 - 6 / 16)),  # by chance 1·2/16 + 2·2/16
    ],
)
def test_an_unknown_prediction_is_wrong(metric: str, expected: float) -> None:
    rows = {"predictions": [0, None, 1, 1], "labels": [0, 0, 1, 1]}
    assert scored(f"sklearn:{metric}", **rows) == pytest.approx(expected)


@pytest.mark.parametrize("name", [n for n in short_names() if "_loss" not in n and "d2" not in n and "auc" not in n])
def test_all_predictions_may_be_unknown(name: str) -> None:
    gold, _, logits = drawn(0, 2, 8)
    assert math.isfinite(scored(f"sklearn:{name}", {"k": 1}, predictions=[None] * 8, labels=gold, logits=logits))


def test_rows_without_a_right_class_are_left_out() -> None:
    gold, found, logits = drawn(1, 3, 20)
    for name in ("f1_macro", "accuracy", "cohen_kappa", "log_loss", "roc_auc"):
        whole = scored(f"sklearn:{name}", predictions=found, labels=gold, logits=logits)
        more = torch.cat([logits, torch.zeros(2, 3)])
        assert whole == scored(f"sklearn:{name}", predictions=[*found, 0, None], labels=[*gold, -1, -1], logits=more)


def test_classes_that_no_row_has() -> None:
    """A batch may lack some: what is left is scored as scikit-learn scores it alone."""
    from sklearn.metrics import cohen_kappa_score, log_loss, roc_auc_score

    gold, found, logits = (
        [0, 0, 2, 2],
        [0, 2, 2, 2],
        torch.tensor([[2.0, 0, 1], [0.5, 0, 0.6], [0, 1, 3], [0.6, 0, 0.1]]),
    )
    p = logits.double().softmax(-1).numpy()
    each = [roc_auc_score([y == c for y in gold], p[:, c]) for c in (0, 2)]
    assert scored("sklearn:roc_auc", logits=logits, labels=gold) == pytest.approx(sum(each) / 2)
    assert scored("sklearn:log_loss", logits=logits, labels=gold) == pytest.approx(log_loss(gold, p, labels=[0, 1, 2]))
    weighted = scored("sklearn:cohen_kappa", {"weights": "quadratic"}, predictions=found, labels=gold)
    assert weighted == pytest.approx(cohen_kappa_score(gold, found, labels=[0, 1, 2], weights="quadratic"))
    with pytest.raises(ObjectiveError, match="roc_auc has no value on these 2 rows"):
        scored("sklearn:roc_auc", logits=logits[:2], labels=gold[:2])
    assert scored("sklearn:brier", logits=torch.zeros(2, 2), labels=[0, 0]) == pytest.approx(0.25)


def test_options_of_metrics() -> None:
    from sklearn.metrics import fbeta_score, top_k_accuracy_score

    gold, found, logits = drawn(3, 4, 40)
    expected = fbeta_score(gold, found, beta=2, average="macro")
    options = {"beta": "2", "average": "macro"}
    assert scored("sklearn:fbeta", options, predictions=found, labels=gold) == pytest.approx(expected)
    top = scored("sklearn:top_k_accuracy", {"k": 3}, logits=logits, labels=gold)
    assert top == pytest.approx(top_k_accuracy_score(gold, logits.numpy(), k=3))
    gold, found, _ = drawn(4, 2, 40)
    zero = scored("sklearn:precision", {"positive": 0}, predictions=found, labels=gold)
    assert zero == pytest.approx(sum(p == y == 0 for p, y in zip(found, gold, strict=True)) / found.count(0))


@pytest.mark.parametrize(
    ("metric", "options", "said"),
    [
        ("balanced_acuracy", {}, "did you mean 'balanced_accuracy'"),
        ("r2", {}, "'r2' is no metric of classifications"),
        ("adjusted_rand_score", {}, "no metric of classifications"),
        ("mean_squared_error", {}, "no metric of classifications"),
        ("", {}, "no metric of classifications"),
        ("accuracy", {"average": "macro"}, "accuracy has no average 'macro'"),
        ("roc_auc", {"average": "micro"}, "roc_auc has no average 'micro'"),
        ("accuracy", {"weights": "linear"}, "takes no weights"),
        ("fbeta", {"beta": 0}, "beta must be positive, got 0"),
        ("top_k_accuracy", {"k": 0}, "k must be 1 or more, got 0"),
    ],
)
def test_what_is_refused_when_it_is_made(metric: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        objective_spec.resolve(f"sklearn:{metric}", options)


def test_what_is_refused_for_the_number_of_classes() -> None:
    check = lambda metric, classes, **o: objective_spec.resolve(f"sklearn:{metric}", o).function.check(classes)  # noqa: E731
    with pytest.raises(OptionError, match=r"f1 scores one class of two, not of 3 \(sklearn:f1_macro\)"):
        check("f1", 3)
    with pytest.raises(OptionError, match="positive must be a class index below 2, got 5"):
        check("recall", 2, positive=5)
    with pytest.raises(OptionError, match="k must be below the number of classes, 2, got 2"):
        check("top_k_accuracy", 2)
    check("f1", 2)
    check("f1_macro", 7)
    with pytest.raises(ObjectiveError, match="use sklearn:f1_macro"):
        scored("sklearn:f1", predictions=[0, 1, 2], labels=[0, 1, 2])


def test_the_metric_has_to_be_named() -> None:
    with pytest.raises(OptionError, match="metric"):
        objective_spec.resolve("sklearn", {})
    assert plugins.default().find("objective", "sklearn").load().__name__ == "Sklearn"


# -- SQuAD, DROP -------------------------------------------------------------------------------------------------------


def samples(name: str, completions: list[Any], references: list[Any], **options: Any) -> list[float | None]:
    inputs = {"completions": completions, "references": references}
    found = objective_spec.resolve(name, options).score(len(completions), inputs).samples
    assert found is not None
    return list(found)


CHAT = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "in Paris"}]


@pytest.mark.parametrize("name", ["token-f1", "exact-match", "drop-f1", "drop-em", "rouge1", "rougeL", "bleu", "chrf"])
def test_conversations_are_scored_by_their_last_message(name: str) -> None:
    options = {"effective_order": True} if name == "bleu" else {}
    texts = scored(name, options, completions=["in Paris", "Rome"], references=["in Paris", "Rome now"])
    chats = [CHAT, [{"role": "assistant", "content": "Rome"}]]
    assert scored(name, options, completions=chats, references=["in Paris", "Rome now"]) == texts > 0


@pytest.mark.parametrize(
    ("found", "right", "f1", "exact"),
    [
        ("7", "7.0", 1.0, 1.0),  # numbers are floats
        ("1,000", "1000", 1.0, 1.0),  # and so is what is one without punctuation
        ("5%", "5", 1.0, 1.0),
        ("-5", "5", 1.0, 1.0),  # a hyphen parts tokens
        ("12-yard", "12 yard", 1.0, 1.0),
        ("The Field-Goal!", "field goal", 1.0, 1.0),
        ("8 yards", "9 yards", 0.0, 0.0),  # the right one has numbers, and they share none
        ("9 metres", "9 yards", 0.5, 0.0),
        ("9 yards", "yards", 0.67, 0.0),  # 2·(1/2)·1 / (3/2), to hundredths
        ("yards", "9 yards", 0.0, 0.0),
        ("go go go", "go", 1.0, 0.0),  # spans are sets of tokens, and exact by words
        ("", "Paris", 0.0, 0.0),
        ("the", "", None, None),  # an empty right answer is none
        ("", "the", 1.0, 1.0),  # nothing is left of it
        ("", "!", 1.0, 1.0),
        ("北京 7", "北京 7.0", 1.0, 1.0),
        ("👍", "👍", 1.0, 1.0),
        ("Rome", ["Paris", "Rome"], 1.0, 1.0),
        ("x", None, None, None),
        ("x", [], None, None),
    ],
)
def test_answers_as_drop_scores_them(found: str, right: Any, f1: float | None, exact: float | None) -> None:
    assert samples("drop-f1", [found, "x"], [right, "x"]) == [f1, 1.0]
    assert samples("drop-em", [found, "x"], [right, "x"]) == [exact, 1.0]


@pytest.mark.parametrize(
    ("found", "right", "f1", "exact"),
    [
        ("Brady; Moss", ["Moss", "Brady"], 1.0, 1.0),  # in any order
        ("Brady", ["Moss", "Brady"], 0.5, 0.0),  # one of two
        ("Brady; Moss; Welker", ["Moss", "Brady"], 0.67, 0.0),
        ("Brady; Brady", ["Brady"], 0.5, 0.0),  # as often
        ("Tom Brady; Tom Jones", ["Tom Jones", "Brady"], 0.83, 0.0),  # (1 + 2/3) / 2: Jones to Jones
        ("a b; a c", ["c x", "b"], 0.83, 0.0),
    ],
)
def test_several_spans_are_paired_at_their_best(found: str, right: list[str], f1: float, exact: float) -> None:
    options = {"separator": "; ", "spans": "all"}
    assert samples("drop-f1", [found], [right], **options) == [f1]
    assert samples("drop-em", [found], [right], **options) == [exact]
    assert samples("drop-f1", [found], ["; ".join(right)], separator="; ") == [f1]
    assert samples("drop-f1", [found], [["nothing", right]], separator="; ") == [f1]  # one of two answers is a list


def test_pairing_is_the_best_of_all_pairings() -> None:
    import itertools

    from zotune_objectives.drop import f1_of, normal, overlap

    rng = random.Random(5)
    for _ in range(60):
        spans = [" ".join(rng.choices(["red", "blue", "green", "7", "9"], k=2)) for _ in range(8)]
        found, right = spans[: rng.randint(1, 4)], spans[4 : rng.randint(5, 8)]
        most = max(len(found), len(right))
        padded = [*found, *[None] * (most - len(found))]
        best = max(
            sum(overlap(normal(a), normal(b)) for a, b in zip(some, right, strict=False) if a is not None)
            for some in itertools.permutations(padded)
        )
        assert f1_of(found, right) == pytest.approx(best / most, abs=0.0051)


# -- ROUGE -------------------------------------------------------------------------------------------------------------

ENGLISH = [
    ("The quick brown fox jumps over the lazy dog.", "The quick brown dog jumps on the log."),
    ("Running runners ran; he's 3rd (of 12)!", "The runner runs, he is 3rd of twelve_ones"),
    ("one line\nand another line", "another line\n\nand one line more"),
    ("same", "same"),
    ("", "nothing"),
    ("...", "nothing"),
    ("snake_case-word", "snake case word"),
]


@pytest.mark.parametrize("stemmer", [False, True])
@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_of_english_equals_the_official_package(name: str, stemmer: bool) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    official = RougeScorer([name], use_stemmer=stemmer)
    found = samples(name, [c for c, _ in ENGLISH], [r for _, r in ENGLISH], stemmer=stemmer)
    assert found == [official.score(r, c)[name].fmeasure for c, r in ENGLISH]
    assert max(x for x in found if x is not None) > 0
    several = [["no such words here", "the dog jumps on a log"]]
    best = max(official.score(r, ENGLISH[0][0])[name].fmeasure for r in several[0])
    assert samples(name, [ENGLISH[0][0]], several, stemmer=stemmer) == [best]


def test_words_of_ascii_text_are_the_official_ones() -> None:
    import string

    from rouge_score.tokenizers import DefaultTokenizer
    from zotune_objectives.rouge import Tokenizer

    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(string.printable + "eeeaaassing   ", k=60))
        for stemmer in (False, True):
            assert Tokenizer(stemmer).tokenize(text) == DefaultTokenizer(stemmer).tokenize(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我爱北京。", ["我", "爱", "北", "京"]),
        ("東京タワーは333m", ["東", "京", "タ", "ワ", "ー", "は", "333m"]),
        ("Привет, Мир!", ["привет", "мир"]),
        ("Caf\u0065\u0301 na\u00efve", ["café", "naïve"]),  # an accent of its own, or not
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs do not part words
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("ที่นี่", ["ที่", "นี่"]),  # a character with its vowel and tone
        ("yes👍👍🏽 no", ["yes", "👍", "👍🏽", "no"]),
        ("👩\u200d👩\u200d👧❤\ufe0f", ["👩\u200d👩\u200d👧", "❤"]),
        ("🇫🇷🇩🇪", ["🇫🇷", "🇩🇪"]),
        ("don’t stop—now… snake_case", ["don", "t", "stop", "now", "snake", "case"]),
        ("\u0301 \u200d", []),
        ("", []),
    ],
)
def test_words_of_other_scripts(text: str, words: list[str]) -> None:
    from zotune_objectives import rouge

    assert rouge.words(text) == words


@pytest.mark.parametrize("text", ["我爱北京", "すしが好き", "Привет мир", "👍🎉 👍", "ฉันรักคุณ"])
def test_rouge_of_any_script_against_itself_is_one(text: str) -> None:
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        assert samples(name, [text, text, ""], [text, "none of these", text]) == [1.0, 0.0, 0.0]


def test_rouge_by_hand_in_chinese() -> None:
    """我爱北京 and 我在北京: three of four characters, one of three pairs (北京), a subsequence of three."""
    assert samples("rouge1", ["我爱北京"], ["我在北京"]) == [pytest.approx(3 / 4)]
    assert samples("rouge2", ["我爱北京"], ["我在北京"]) == [pytest.approx(1 / 3)]
    assert samples("rougeL", ["我爱北京"], ["我在北京"]) == [pytest.approx(3 / 4)]
    assert samples("rougeL", ["x", "x"], [None, "x"]) == [None, 1.0]


# -- BLEU, chrF --------------------------------------------------------------------------------------------------------

SAID = ["the cat sat on the mat today", "a dog ran in the big park", "hello there my old friend"]
RIGHT = ["the cat sat on a mat today", "the dog ran in the big green park", "hello there my dear old friend"]


@pytest.mark.parametrize("options", [{}, {"lowercase": True}, {"tokenizer": "char"}, {"effective_order": True}])
def test_bleu_equals_sacrebleu(options: dict[str, Any]) -> None:
    from sacrebleu import corpus_bleu
    from sacrebleu.metrics import BLEU

    theirs = {"tokenize" if k == "tokenizer" else k: v for k, v in options.items()}
    expected = BLEU(**theirs).corpus_score([SAID[0].title(), *SAID[1:]], [RIGHT]).score
    value = scored("bleu", options, completions=[SAID[0].title(), *SAID[1:]], references=RIGHT)
    assert value == pytest.approx(expected)
    assert 0 < value < 100
    if not options:
        assert scored("bleu", completions=SAID, references=RIGHT) == pytest.approx(corpus_bleu(SAID, [RIGHT]).score)


@pytest.mark.parametrize("options", [{}, {"word_order": 2}, {"char_order": 4, "beta": 1}, {"lowercase": True}])
def test_chrf_equals_sacrebleu(options: dict[str, Any]) -> None:
    from sacrebleu.metrics import CHRF

    expected = CHRF(**options).corpus_score([SAID[0].title(), *SAID[1:]], [RIGHT]).score
    value = scored("chrf", options, completions=[SAID[0].title(), *SAID[1:]], references=RIGHT)
    assert value == pytest.approx(expected)
    assert 0 < value < 100


@pytest.mark.parametrize(("name", "metric"), [("bleu", "BLEU"), ("chrf", "CHRF")])
def test_several_right_texts_of_differing_number(name: str, metric: str) -> None:
    from sacrebleu import metrics

    references = [RIGHT[0], [RIGHT[1], SAID[1]], ["other", "words", SAID[2]]]
    streams = [[RIGHT[0], RIGHT[1], "other"], [None, SAID[1], "words"], [None, None, SAID[2]]]
    expected = getattr(metrics, metric)().corpus_score(SAID, streams).score
    assert scored(name, completions=SAID, references=references) == pytest.approx(expected)
    without = scored(name, completions=[*SAID, "unjudged", "too"], references=[*references, None, []])
    assert without == pytest.approx(expected)
    assert objective_spec.resolve(name, {}).score(3, {"completions": SAID, "references": references}).samples is None
    with pytest.raises(ObjectiveError, match="no row has a right text"):
        scored(name, completions=["x", "y"], references=[None, []])


def test_bleu_and_chrf_of_odd_texts() -> None:
    chinese = "我今天很高兴"
    assert scored("bleu", completions=[chinese], references=[chinese]) == 0  # one word for the usual tokenizer
    for tokenizer in ("zh", "char"):
        assert scored("bleu", {"tokenizer": tokenizer}, completions=[chinese], references=[chinese]) == pytest.approx(
            100
        )
    assert scored("chrf", completions=[chinese, "👍🎉"], references=[chinese, "👍🎉"]) == pytest.approx(100)
    for name in ("bleu", "chrf"):
        assert scored(name, completions=["", ""], references=["some words that are", "not there"]) == 0
    assert scored("bleu", {"effective_order": True}, completions=["yes"], references=["yes"]) == pytest.approx(100)


def test_sacrebleu_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from zotune_objectives import translation

    translation.metric.cache_clear()
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for name in ("bleu", "chrf"):
        with pytest.raises(OptionError, match=rf"{name} needs sacrebleu \(pip install 'zotune\[text\]'\)"):
            objective_spec.resolve(name, {})


def test_options_of_bleu_and_chrf() -> None:
    with pytest.raises(OptionError, match=r"tokenizer.*13a.*got 'moses'"):
        objective_spec.resolve("bleu", {"tokenizer": "moses"})
    with pytest.raises(OptionError, match="char_order must be 1 or more, got 0"):
        objective_spec.resolve("chrf", {"char_order": 0})


@pytest.mark.parametrize(("tokenizer", "needs"), [("ja-mecab", "MeCab"), ("ko-mecab", "mecab_ko")])
def test_tokenizers_that_are_not_installed(tokenizer: str, needs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from zotune_objectives import translation

    translation.metric.cache_clear()
    monkeypatch.setitem(sys.modules, needs, None)
    monkeypatch.delitem(sys.modules, f"sacrebleu.tokenizers.tokenizer_{tokenizer[:2]}_mecab", raising=False)
    said = rf"what the tokenizer {tokenizer} needs is not installed.*sacrebleu\[{tokenizer[:2]}\]"
    with pytest.raises(OptionError, match=said):
        objective_spec.resolve("bleu", {"tokenizer": tokenizer})


# -- length, regex, contains -------------------------------------------------------------------------------------------


def rows_of(name: str, completions: list[Any], **options: Any) -> list[float | None]:
    found = objective_spec.resolve(name, options).score(len(completions), {"completions": completions}).samples
    assert found is not None
    return list(found)


def test_length() -> None:
    said = ["one two  three\nfour", "", "我爱北京", "👍 ok", CHAT]
    assert rows_of("length", said) == [4, 0, 1, 2, 2]
    assert rows_of("length", said, unit="characters") == [19, 0, 4, 4, 8]
    assert rows_of("length", said, target=2) == [2, 2, 1, 0, 0]
    assert rows_of("length", said, at_most="2") == [2, 0, 0, 0, 0]
    goal = objective_spec.resolve("length:tokens", {"target": 3})
    assert goal.wants == {"completion_ids"}
    assert goal.direction == "minimize"
    assert goal.score(2, {"completion_ids": [[5, 6], [1, 2, 3, 4, 5]]}).samples == (1, 2)
    assert objective_spec.resolve("length", {}).wants == {"completions"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unit": "lines"}, "must be one of words, characters, tokens, got 'lines'"),
        ({"target": -1}, "target must be 0 or more, got -1"),
        ({"target": 5, "at_most": 7}, "target=5 and at_most=7 exclude each other"),
    ],
)
def test_lengths_that_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        objective_spec.resolve("length", options)


def test_regex() -> None:
    said = ["42", "it is 42", "", "Forty\ntwo", [{"role": "assistant", "content": "42"}]]
    assert rows_of(r"regex:^\d+$", said) == [1, 0, 0, 0, 1]
    assert rows_of(r"regex:\d", said) == [1, 1, 0, 0, 1]
    assert rows_of(r"regex:\d+", said, full=True) == [1, 0, 0, 0, 1]
    assert rows_of("regex:^TWO$", said, flags="im") == [0, 0, 0, 1, 0]
    assert rows_of("regex:forty.two", said, flags="is", full="true") == [0, 0, 0, 1, 0]
    assert rows_of("regex:北京|👍", ["我爱北京", "👍", "no"]) == [1, 1, 0]
    assert objective_spec.resolve("regex:a:b", {}).score(1, {"completions": ["xa:by"]}).value == 1
    with pytest.raises(OptionError, match=r"'\(' is no regular expression"):
        objective_spec.resolve("regex:(", {})
    with pytest.raises(OptionError, match="flags are letters of imsxa, got 'q'"):
        objective_spec.resolve("regex:x", {"flags": "iq"})


def test_contains() -> None:
    said = ["I am HAPPY", "glad and happy", "", "unhappy", CHAT]
    assert rows_of("contains:happy", said) == [1, 1, 0, 1, 0]
    assert rows_of("contains:happy", said, ignore_case=False) == [0, 1, 0, 1, 0]
    assert rows_of("contains:glad, happy", said) == [1, 1, 0, 1, 0]
    assert rows_of("contains:glad, happy", said, match="all") == [0, 1, 0, 0, 0]
    assert rows_of("contains:Paris", said) == [0, 0, 0, 0, 1]
    assert rows_of("contains:a, b", ["a, b", "a b"], separator="") == [1, 0]
    assert rows_of("contains:STRASSE,👍", ["Straße", "👍🏽"]) == [1, 1]
    with pytest.raises(OptionError, match="nothing to look for in ' ,'"):
        objective_spec.resolve("contains: ,", {})
