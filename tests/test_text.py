"""Text for a terminal that lacks characters."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from zotune.text import replace_unencodable, short_name


def test_characters_that_an_encoding_lacks_read_alike() -> None:
    text = "0.5 ± 0.1 … café → ½ 北"
    assert text.encode("ascii", "zotune") == rb"0.5 +- 0.1 ... cafe -> \xbd \u5317"
    assert "±ε".encode("cp1252", "zotune") == b"\xb1eps"
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", "zotune")
    with pytest.raises(UnicodeDecodeError):
        replace_unencodable(UnicodeDecodeError("ascii", b"\xff", 0, 1, "x"))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("arguments", [["plugins", "show", "mezo"], ["eval", "-o", "f1", "--limit", "6"]])
def test_commands_end_well_on_such_terminals(encoding: str, arguments: list[str]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-m", "zotune", *arguments], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    if arguments[0] == "eval":
        assert (b"\xb1" if encoding == "cp1252" else b"+-") in done.stdout


def test_objectives_in_files_are_called_by_their_function() -> None:
    assert short_name("examples/json_reward.py:valid_json") == "valid_json"
    assert short_name("a/b.py:x - 0.1 length") == "x - 0.1 length"
    assert short_name("contains:happy") == "contains:happy"
    assert short_name("reward-model:./rm") == "reward-model:./rm"
