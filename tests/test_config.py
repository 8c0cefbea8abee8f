"""The configuration of a run: from flags, files and Python, with former names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zotune import config
from zotune.errors import OptionError, ZotuneError
from zotune.yaml_file import write_yaml


def test_flags_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("objective: f1\nlearning-rate: 1e-5\nbatch_size: 8\noptimizer_args: {n: 2}\n")
    cfg = config.resolve({"batch_size": 4, "objective": None, "optimizer_args": {"k": "1"}}, str(file))
    assert (cfg.objective, cfg.learning_rate, cfg.batch_size) == ("f1", 1e-5, 4)
    assert cfg.optimizer_args == {"n": 2, "k": "1"}
    assert cfg.seed == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("objectiv: f1", "unknown key 'objectiv' .*did you mean 'objective'"),
        ("- a\n- b", "mapping"),
        ("a: [", "cannot be read"),
        ("seed: twelve", "whole number"),
        ("max_steps: -4", "must be positive, got -4"),
        ("max_time: .nan", "must be a number, got nan"),
        ("seed: {a: 1}", "whole number, got {'a': 1}"),
        ("stop: 5", "must be a list, got 5"),
        ("model: []", r"must be text, got \[\]"),
        ("objective: null", "must be .*, got None"),
        ('columns: {"a\\nb": null}', r"columns: 'a\\nb' must be text, got None"),
        ("columns: [1, 2]", r"must map names to values, got \[1, 2\]"),
        ("objective: &a [f1]\nweight: *a", "aliases are not read"),
        ("objective: &a [*a]", "aliases are not read"),
        ("seed: !!bool x", "a value does not fit its tag"),
        ("run_name: 2001-99-99", "cannot be read: month must be in"),
        ("seed: 0x" + "f" * 5000, "a whole number of that many digits"),
        ("a: " + "[" * 50_000, "nested too deeply"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(OptionError, match=message):
        config.resolve({}, str(file))


def test_whole_numbers_are_exact(tmp_path: Path) -> None:
    """Also those that no float holds."""
    (tmp_path / "c.yaml").write_text(f"seed: {2**60 + 1}\n")
    assert config.resolve({}, str(tmp_path / "c.yaml")).seed == 2**60 + 1


def test_several_objectives_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("objective: [f1, 'contains:a,b']\nweight: [1, 0.5]\n")
    cfg = config.resolve({}, str(tmp_path / "c.yaml"))
    assert (cfg.objective, cfg.weight, cfg.objective_name) == (
        ("f1", "contains:a,b"),
        (1.0, 0.5),
        "f1 + contains:a,b",
    )


def test_written_configuration_reads_back(tmp_path: Path) -> None:
    from dataclasses import asdict

    cfg = config.resolve({"objective": "f1", "learning_rate": 1e-7, "columns": {"text": "sentence"}}, None)
    write_yaml(tmp_path / "c.yaml", asdict(cfg))
    assert config.resolve({}, str(tmp_path / "c.yaml")) == cfg


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80))
def test_any_text_as_configuration_is_a_config_or_one_clear_error(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.yaml"
        file.write_text(text, encoding="utf-8", errors="replace")
        try:
            config.resolve({}, str(file))
        except ZotuneError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("key", "value", "name", "expected"),
    [
        ("probe", "together", "perturb", "joint"),
        ("probe", "copy", "perturb", "copy"),
        ("perturb", "together", "perturb", "joint"),
        ("model-name-or-path", "m", "model", "m"),
        ("dataset_name", "d", "dataset", "d"),
    ],
)
def test_former_names_and_names_of_trl_are_read(tmp_path: Path, key: str, value: str, name: str, expected: str) -> None:
    (tmp_path / "c.yaml").write_text(f"{key}: {value}\n")
    assert getattr(config.resolve({}, str(tmp_path / "c.yaml")), name) == expected
    assert getattr(config.resolve({key: value}, None), name) == expected


def test_a_name_and_its_alias_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="probe is given twice: it is another name of perturb"):
        config.resolve({"perturb": "copy", "probe": "copy"}, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modle": "x"}, "unknown option 'modle' .did you mean 'model'"),
        ({"max_evals": "many"}, "--max-evals must be a whole number, got 'many'"),
        ({"perturb": "togther"}, "--perturb must be auto, population, forward, copy or joint, got 'togther'"),
        ({"eps": float("inf")}, "--eps must be a finite number or auto, got inf"),
        ({"max_failures": -1}, "--max-failures must be 0 or more, got -1"),
        ({"top_p": 0.0}, r"--top-p must be in \(0, 1\], got 0.0"),
        ({"rollback": -1}, r"--rollback must be 0 \(never\) or more, got -1"),
    ],
)
def test_bad_values_from_python_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        config.resolve(options, None)


def test_values_from_python_are_converted() -> None:
    values = config.resolve({"max_evals": "60", "stop": ["x"], "lr": None, "learning_rate": "auto"}, None)
    assert (values.max_evals, values.stop, values.learning_rate) == (60, ("x",), "auto")


def test_every_option_has_a_help_of_one_sentence_or_more_and_its_own_names() -> None:
    records = config.run_options()
    assert len({key for o in records.values() for key in o.keys}) == sum(len(o.keys) for o in records.values())
    flags = [flag for o in records.values() for flag in (*o.flags, *o.aliases)]
    assert len(set(flags)) == len(flags)
    for record in records.values():
        assert record.help.endswith((".", "…")), record
        assert record.group in config.GROUPS
    assert sorted(o.first for o in records.values() if o.first) == [*range(1, 10)]  # --config is the tenth


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("600", 600.0),
        ("90s", 90.0),
        ("10m", 600.0),
        ("10min", 600.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("2h 5s", 7205.0),
    ],
)
def test_times_are_seconds(text: str, seconds: float) -> None:
    assert config.resolve({"max_time": text}, None).max_time == seconds


@pytest.mark.parametrize("text", ["", "m", "10x", "ten minutes", "-5m", "0s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--max-time must be"):
        config.resolve({"max_time": text}, None)
