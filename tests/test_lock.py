"""The lock of a run directory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zotune import lock
from zotune.errors import RunFolderError

HOLD = """
import sys, time
from pathlib import Path
from zotune import lock as locking
with locking.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_never_share_a_run_directory(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    message = rf"in use by process {holder.pid} on {socket.gethostname()} \(wait for it, or end it\)"
    with pytest.raises(RunFolderError, match=message), lock.held(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    assert (tmp_path / lock.LOCK).exists(), "a stale lock"
    with lock.held(tmp_path):
        assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == os.getpid()
        with pytest.raises(RunFolderError, match="in use"), lock.held(tmp_path):
            pass
    assert not (tmp_path / lock.LOCK).exists()


def test_without_file_locks_the_process_number_decides(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    path, dead = tmp_path / lock.LOCK, subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for text in ("", "{", json.dumps({"pid": dead.pid, "host": socket.gethostname()})):
        path.write_text(text)
        with lock.held(tmp_path):
            pass
    for record in ({"pid": 1, "host": socket.gethostname()}, {"pid": dead.pid, "host": "elsewhere"}):
        path.write_text(json.dumps(record))
        with pytest.raises(RunFolderError, match=f"process {record['pid']} on {record['host']}"):
            lock.held(tmp_path).__enter__()
