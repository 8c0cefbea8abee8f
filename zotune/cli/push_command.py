"""`zotune push`: the model of a run on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass

from zotune import config
from zotune.cli.command import command
from zotune.cli.shared_flags import quiet_flag, run_argument
from zotune.options import argument, like


@dataclass(frozen=True)
class PushFlags:
    """What `push` takes."""

    run: str = run_argument()
    hub_id: str = argument("Id of the model on the hub: OWNER/NAME.", "ID")
    hub_private: bool = like(config.run_options()["hub_private"], group="Options")
    quiet: bool = quiet_flag()


def push(flags: PushFlags) -> None:
    """Upload the kept weights, the tokenizer, the model card and the journal of a finished run, in one commit.

    The repository is created where there is none. The token is that of `hf auth login` or of HF_TOKEN.
    """
    from zotune.cli.terminal import Terminal
    from zotune.runs.hub_upload import push as upload

    with Terminal(flags.quiet) as terminal:
        address = upload(flags.run, flags.hub_id, private=flags.hub_private, emit=terminal)
    print(address)


COMMAND = command("push", push, PushFlags)

__all__ = ["COMMAND"]
