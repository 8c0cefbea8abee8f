"""vLLM as the engine of a run.

Each member of a population is an adapter of rank 1 under a name and a number that were never used before, for vLLM's
prefix cache would serve states of older weights under an old name. A worker makes its factors from the run's seed, the
step and the member (`vllm_worker`); only numbers are sent. The base weights are updated in the worker by zotune's own
kernels, after which the prefix cache is emptied.

Sampling adds zotune's Gumbel noise to vLLM's scores, so that draws do not depend on what is batched together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import random
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from zotune.errors import EngineError
from zotune.inference import EngineModel, GenerationRequest, InferenceEngine, WeightUpdate

ENVIRONMENT: Final = {
    "VLLM_LOGGING_LEVEL": "CRITICAL",  # what it raises is shown in one line
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, which may be killed at any time
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the run has threads of its own
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment variables of vLLM, where the user sets none."""
GIB: Final = 1 << 30


class VLLMEngine(InferenceEngine):
    """Options are those of vLLM, by its own names, except `kv_cache_gib` and `host_copies`."""

    def __init__(
        self,
        gpu_memory_utilization: float = 0.5,  # share of a GPU's memory that vLLM takes; the run's own model takes some
        tensor_parallel_size: int = 1,  # GPUs that share the weights
        max_loras: int = 0,  # members of a pass at most; 0: as many as a pass of the run may hold
        max_lora_rank: int = 0,  # rank that members are padded to; 0: 1 on a CPU, 8 on a GPU
        max_num_seqs: int = 256,  # rows that are decoded together at most
        enforce_eager: bool = False,  # no CUDA graphs; a CPU has none
        enable_prefix_caching: bool = True,  # what prompts have in common is read once a member
        kv_cache_gib: int = 2,  # GiB of keys and values on a CPU
        host_copies: bool = False,  # update copies in host memory, as several GPUs do, instead of vLLM's own tensors
    ) -> None:
        self._options = {
            "gpu_memory_utilization": gpu_memory_utilization,
            "tensor_parallel_size": tensor_parallel_size,
            "max_loras": max_loras,
            "max_lora_rank": max_lora_rank,
            "max_num_seqs": max_num_seqs,
            "enforce_eager": enforce_eager,
            "enable_prefix_caching": enable_prefix_caching,
        }
        self._kv_cache, self._copies = kv_cache_gib * GIB, host_copies
        self._llm: Any = None
        self._matrices: frozenset[str] = frozenset()
        self._numbers, self._has_members = itertools.count(1), False
        self.seconds: dict[str, float] = {"members": 0.0, "generate": 0.0, "update": 0.0}

    def start(self, model: EngineModel) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            import vllm
        except ImportError as error:
            raise EngineError(
                f"vllm cannot be imported: {error}", hint="pip install 'zotune[vllm]'; on a CPU scripts/vllm-env.sh"
            ) from error
        from zotune_engines.vllm_noise import CounterNoise

        cpu = model.device == "cpu"
        options = dict(self._options)
        options["max_loras"] = options["max_loras"] or model.rows
        options["max_lora_rank"] = options["max_lora_rank"] or (1 if cpu else 8)
        if cpu:
            options |= {"enforce_eager": True, "kv_cache_memory_bytes": self._kv_cache}
            del options["gpu_memory_utilization"]
        with _global_state():
            self._llm = vllm.LLM(
                str(model.folder),
                dtype=model.dtype,
                max_model_len=model.max_length,
                trust_remote_code=model.trust_remote_code,
                enable_lora=True,
                max_cpu_loras=options["max_loras"],
                generation_config="vllm",
                worker_extension_cls="zotune_engines.vllm_worker.TunedWeights",
                logits_processors=[CounterNoise],
                disable_log_stats=True,
                use_tqdm_on_load=False,
                seed=0,
                **options,
            )
        plain = {"tensors": dict(model.tensors), "seed": model.seed, "rounding": model.rounding, "dtype": model.dtype}
        plain["copies"] = self._copies
        answer = self._ask("zotune_start", json.dumps(plain))
        if "error" in answer:
            raise EngineError(f"--engine vllm: {answer['error']}", hint="--engine transformers")
        self._matrices = frozenset(answer["matrices"])
        self.generate(GenerationRequest([(0, 0)], 1))  # a model that its kernels refuse fails here

    def versions(self) -> Mapping[str, str]:
        names = ("vllm", "vllm-cpu", "torch", "transformers")
        return {n: v for n in names if (v := _version(n))}

    def matrices(self) -> frozenset[str]:
        return self._matrices

    def generate(self, request: GenerationRequest) -> list[list[int]]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        sampled = request.temperature > 0
        if sampled and request.repetition_penalty != 1.0:
            raise EngineError("--engine vllm samples without --repetition-penalty", hint="--engine transformers")
        if sampled and len(request.keys) != len(request.prompts):
            raise EngineError("a request that is sampled needs a key for each prompt")
        common: dict[str, Any] = {
            "temperature": 0.0,
            "max_tokens": request.max_new_tokens,
            "repetition_penalty": request.repetition_penalty,
            "stop": list(request.stop) or None,
            "include_stop_str_in_output": bool(request.stop),
            "stop_token_ids": list(request.end_ids),
            "ignore_eos": True,  # end_ids has all end tokens
            "detokenize": bool(request.stop),
        }
        settings = request.temperature, request.top_p, request.top_k, request.min_p
        parameters = [
            SamplingParams(**common, extra_args={"zotune": [key, *settings]} if sampled else None)
            for key in (request.keys if sampled else [0] * len(request.prompts))
        ]
        prompts = [TokensPrompt(prompt_token_ids=list(p)) for p in request.prompts]
        adapters = self._adapters(request)
        started = time.monotonic()
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False, lora_request=adapters)
        self.seconds["generate"] += time.monotonic() - started
        return [_without_end(list(x.outputs[0].token_ids), request.end_ids) for x in outputs]

    def _adapters(self, request: GenerationRequest) -> list[Any] | None:
        """The adapter of each row's member, which the worker makes when it first needs it."""
        from vllm.lora.request import LoRARequest

        members = request.members
        if members is None:
            if self._has_members:
                self._ask("zotune_release")
                self._has_members = False
            return None
        self._has_members = True
        started = time.monotonic()
        self._ask("zotune_members", json.dumps(dataclasses.asdict(members)))
        count = 2 * (members.last - members.first)
        each, adapters = len(request.prompts) // count, []
        for member in range(count):
            number = next(self._numbers)
            name = f"step-{members.step}-draw-{members.draw}-member-{members.first}-{member}-{number}"
            adapters += [LoRARequest(name, number, f"zotune:{member}")] * each
        self.seconds["members"] += time.monotonic() - started
        return adapters

    def update(self, update: WeightUpdate) -> None:
        started = time.monotonic()
        self._written("zotune_update", update.step, update.recipe)
        self.seconds["update"] += time.monotonic() - started

    def load(self, file: Path) -> None:
        self._written("zotune_load", str(file))

    def export(self, file: Path) -> None:
        self._ask("zotune_export", str(file))

    def weights_hash(self) -> str:
        return str(self._ask("zotune_hash"))

    def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()

    def _written(self, method: str, *arguments: Any) -> None:
        """Change the weights in the workers; what the prefix cache holds belongs to the old ones."""
        self._ask(method, *arguments)
        if not self._llm.reset_prefix_cache():
            raise EngineError("--engine vllm: the prefix cache could not be emptied")

    def _ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the worker extension returns; all workers return the same."""
        answers = self._llm.collective_rpc(method, args=arguments)
        if any(a != answers[0] for a in answers):
            raise EngineError(f"--engine vllm: its workers disagree ({method})")
        return answers[0]


@contextlib.contextmanager
def _global_state() -> Iterator[None]:
    """Leave the global generators and the number of threads as they were: vLLM seeds and sets them when it starts."""
    threads, python, arrays = torch.get_num_threads(), random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_num_threads(threads)


def _without_end(ids: list[int], end_ids: tuple[int, ...]) -> list[int]:
    return ids[:-1] if ids and ids[-1] in end_ids else ids


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


__all__ = ["VLLMEngine"]
