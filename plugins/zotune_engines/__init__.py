"""The built-in inference engines beside transformers: names and summaries. Each module imports its library when a run
uses it."""

from __future__ import annotations

from zotune import hookimpl
from zotune.hookspecs import Register


@hookimpl
def register_engines(register: Register) -> None:
    register(
        "vllm",
        "zotune_engines.vllm_engine:VLLMEngine",
        summary="vLLM: members as adapters that its workers make, weights updated in the workers",
    )
