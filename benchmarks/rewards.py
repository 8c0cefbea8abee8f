"""One goal through six kinds of scorers: a small language model is tuned until a happy word is in its stories.

    python benchmarks/rewards.py                       # restartable: finished runs are read from rewards.jsonl
    python benchmarks/rewards.py --way exec --way http
    python benchmarks/rewards.py --only-table

The scorers are a Python function, a program, an HTTP server, a reward model that is trained here on the model's own
stories, a judge of pairs, and a person who answers on the page of `zotune rate` (a script in a headless Chromium). A
goal that random changes do not meet is added: ROUGE-L to one story for all prompts. Each scorer has 160 evaluations of
16 prompts, 2,560 stories of 48 tokens (the person half of that), with the defaults of `zotune fit`, and random search
with two scales has as many. The prompts are beginnings of stories: 100 for training, 30 for validation, 70 for the
test. Measured are the scorer's own score on the test set and the share of stories with a happy word, before and after,
as paired differences; and the KL divergence from the base model in nats per token. Needs stories260K in ../shared.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import zotune

MODEL = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K" / "hf"
WAYS = ("python", "exec", "http", "reward-model", "judge", "human", "rougeL")
METHODS: dict[str, list[str]] = {
    "default": [],
    "random search, σ = 0.1": ["--optimizer", "random-search", "--optimizer-arg", "sigma=0.1"],
    "random search, σ = 0.5": ["--optimizer", "random-search", "--optimizer-arg", "sigma=0.5"],
}
SAME = ("exec", "http")
"""Scorers that give exactly the function's scores: run with the default to confirm it, not with random search."""
EVALS, BATCH, TOKENS = 160, 16, 48
STARTS = (
    *("Once upon a time", "One day, a little girl", "Tom had a", "The dog saw", "Lily went to the", "A big bear"),
    *("There was a small", "Mom said to", "The cat and the", "In the park,", "Sam liked to", "The sun was"),
    *("It was a cold", "Ben found a", "Anna and her", "The boy ran", "A little bird", "The old man", "Sue wanted to"),
    "Max was a",
)
WISHED = "there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball."
MORE = ("", " named", " who", " and", " that", " big", " blue", " with a", " very", " day")


@zotune.objective(level="sample")
def happy(completions: Sequence[str]) -> list[float]:
    """1 for a story with a happy word."""
    return [float("happy" in c.lower()) for c in completions]


def judge(prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> list[int]:
    """Which of two stories has a happy word."""
    return [-1 if a == b else int(b > a) for a, b in map(happy, completions)]


SCRIPT = """import json, sys
for line in sys.stdin:
    print(float("happy" in json.loads(line)["completion"].lower()), flush=True)
"""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"scores": happy(asked["completions"])}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *said: Any) -> None:
        pass


@contextlib.contextmanager
def objective_spec(way: str, home: Path) -> Iterator[str]:
    """The value of -o."""
    if way == "python":
        yield f"{__file__}:happy"
    elif way == "rougeL":
        yield "rougeL"
    elif way == "judge":
        yield f"judge:{__file__}:judge"
    elif way == "exec":
        (home / "score.py").write_text(SCRIPT)
        yield f"exec:{home / 'score.py'}"
    elif way == "http":
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/score"
        server.shutdown()
    elif way == "reward-model":
        yield f"reward-model:{reward_model(home / 'reward')}"
    else:
        yield "human"


def stories(rows: int, seed: int) -> list[str]:
    """Sampled stories of the base model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(MODEL), AutoModelForCausalLM.from_pretrained(MODEL)
    torch.manual_seed(seed)
    start = tokenizer(STARTS[0], return_tensors="pt")["input_ids"].expand(rows, -1)
    out = model.generate(start, do_sample=True, max_new_tokens=TOKENS, pad_token_id=0)
    return list(tokenizer.batch_decode(out, skip_special_tokens=True))


def reward_model(folder: Path) -> Path:
    """The story model with a head that is trained to recognize stories with a happy word."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=1)
    model.config.pad_token_id = 0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    texts = stories(600, 1)
    texts += [t + " They were very happy." for t in texts[:200]]
    gold = torch.tensor(happy(texts))
    for step in range(150):
        part = torch.randint(len(texts), (32,), generator=torch.Generator().manual_seed(step))
        batch = [tokenizer(texts[i])["input_ids"] for i in part]
        width = max(map(len, batch))
        ids = torch.tensor([b + [0] * (width - len(b)) for b in batch])
        mask = torch.tensor([[1] * len(b) + [0] * (width - len(b)) for b in batch])
        hidden = model.model(ids, attention_mask=mask).last_hidden_state
        last = hidden[torch.arange(len(batch)), mask.sum(-1) - 1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model.score(last)[:, 0], gold[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


READ = """return [...document.querySelectorAll('#answers > *')].map(
    a => a.checkVisibility() ? a.innerText.toLowerCase() : '')"""


def person(run: Path, done: Callable[[], bool]) -> int:
    """Answers on the real page, by keys, until there are no more questions. Returns the number of answers."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    while not run.is_dir():
        if done():
            return 0
        time.sleep(0.1)
    page = subprocess.Popen(
        [sys.executable, "-m", "zotune", "rate", str(run)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))
    given, before, pressed = 0, "", 0.0
    try:
        assert page.stdout is not None
        driver.get(page.stdout.readline().strip())
        body = driver.find_element(By.TAG_NAME, "body")
        while not done():
            answers = driver.execute_script(READ)
            key = next((str(i) for i, said in enumerate(answers, 1) if "happy" in said), "t")
            if len(answers) > 1 and all("happy" in said for said in answers):
                key = "t"
            again = before == str(answers)
            if len(answers) < 2 or not any(answers) or (again and time.monotonic() < pressed + 0.3):
                time.sleep(0.01)
                continue
            time.sleep(0.19)  # the page takes no key in the moment in which a question appears
            body.send_keys(key)
            given, before, pressed = given + (not again), str(answers), time.monotonic()
    finally:
        driver.quit()
        page.terminate()
        page.wait()
    return given


def prepare(home: Path) -> Path:
    prompts = [{"prompt": s + m, "completion": WISHED} for m in MORE for s in STARTS]
    data = home / "data"
    data.mkdir()
    for split, rows in {"train": prompts[:100], "validation": prompts[100:130], "test": prompts[130:]}.items():
        (data / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return data


def run_one(way: str, method: str, seed: int) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        data = prepare(home)
        with objective_spec(way, home) as goal:
            flags = ["-m", str(MODEL), "-d", str(data), "-o", goal, "--max-new-tokens", str(TOKENS)]
            flags += [
                "--max-evals",
                str(EVALS // (2 if way == "human" else 1)),
                "--batch-size",
                str(BATCH),
                "--seed",
                str(seed),
                "--threads",
                "1",
            ]
            flags += METHODS[method]
            flags += ["--objective-arg", "judged=70"] if way == "human" else []
            tuner = subprocess.Popen(
                [sys.executable, "-m", "zotune", "fit", *flags, "--output-dir", str(home / "run"), "--json", "-q"],
                stdout=subprocess.PIPE,
                text=True,
            )
            answers = person(home / "run", lambda: tuner.poll() is not None) if way == "human" else None
            said, _ = tuner.communicate()
            if tuner.returncode:
                raise SystemExit(f"{way}, {method}: exit code {tuner.returncode}")
            result = json.loads(said)
        before, after = ([*measured(m, data)] for m in (str(MODEL), str(home / "run")))
        moved = likelihood(MODEL) - likelihood(home / "run")
    gaps = [b - a for a, b in zip(before, after, strict=True)]
    mean = math.fsum(gaps) / len(gaps)
    error = math.sqrt(math.fsum((g - mean) ** 2 for g in gaps) / (len(gaps) - 1) / len(gaps))
    return {
        "own": [result["before"]["value"], result["after"]["value"]],
        "difference": [result["difference"]["value"], result["difference"]["error"]],
        "happy": [math.fsum(before) / len(before), math.fsum(after) / len(after)],
        "gain": [mean, error],
        "drift": moved,
        "kept": result["kept"],
        "forwards": result["forwards"],
        "answers": answers,
        "scoring": result["scoring"],
        "seconds": round(time.monotonic() - began, 1),
    }


def measured(model: str, data: Path) -> list[float]:
    """For each test prompt whether the story has a happy word."""
    found: list[float] = []

    @zotune.objective(level="sample")
    def keep(completions: Sequence[str]) -> list[float]:
        found[:] = happy(completions)
        return found

    options = {"template": "{prompt}", "task": "generation", "max_new_tokens": TOKENS}
    zotune.evaluate(model=model, dataset=str(data), objective=keep, **options)
    return found


@torch.no_grad()
def likelihood(model: Path) -> float:
    """Mean log-probability, in nats per token, of stories that the base model wrote."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, judge = AutoTokenizer.from_pretrained(MODEL), AutoModelForCausalLM.from_pretrained(model).eval()
    total, count = 0.0, 0
    for text in stories(64, 2):
        ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
        log_p = torch.log_softmax(judge(ids[None, :-1]).logits[0].float(), -1)
        total, count = total + float(log_p[range(len(ids) - 1), ids[1:]].sum()), count + len(ids) - 1
    return total / count


def table(lines: Sequence[dict[str, Any]]) -> None:
    print(
        "| scorer | method | own score: before, after | difference ± SE | stories with the word: before, after "
        "| gain ± SE | KL |"
    )
    print("|---|---|---|---|---|---|---|")
    for x in lines:
        own, happier = ("{:.3f}, {:.3f}".format(*x[k]) for k in ("own", "happy"))
        d, g = (f"{a:+.3f} ± {b or 0.0:.3f}" for a, b in (x["difference"], x["gain"]))
        print(f"| {x['key'][0]} | {x['key'][1]} | {own} | {d} | {happier} | {g} | {x['drift']:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("rewards.jsonl"))
    parser.add_argument("--way", action="append", choices=WAYS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-table", action="store_true")
    args = parser.parse_args()
    if not MODEL.is_dir():
        raise SystemExit(f"needs {MODEL}")
    args.out.touch()

    def known() -> list[dict[str, Any]]:
        return [json.loads(line) for line in args.out.read_text().splitlines()]

    for way in () if args.only_table else args.way or WAYS:
        for method in list(METHODS)[: 1 if way in SAME else None]:
            key = [way, method, args.seed]
            if any(x["key"] == key for x in known()):
                continue
            line = {"key": key, **run_one(way, method, args.seed)}
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
    table(known())


if __name__ == "__main__":
    main()
