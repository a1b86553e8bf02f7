"""pagecli's engine on its own, without the job around it."""

from timed_run import Loaded, main

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices import base
from pagecli.engine.engine import Engine


def load(task: dict) -> Loaded:
    is_kept = task["dtype"] == "q4_1"
    # No prompt begins like another; with sharing off the warm-up cannot speed up any request either.
    engine = Engine(
        EngineConfig(
            model=task["model"],
            dtype="auto" if is_kept else task["dtype"],
            quantization="keep" if is_kept else "auto",
            threads=task["threads"],
            kv_memory_bytes=task["kv_gib"] * 2**30,
            prefix_caching=False,
        )
    )

    def generate(prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            engine.add_request(index, prompt, SamplingParams(max_tokens=length, ignore_eos=True))
        outputs: list[list[int]] = [[] for _ in prompts]
        while engine.has_unfinished():
            for done in engine.step():
                outputs[done.request_id] = list(done.sequences[0].token_ids)
        return outputs

    kept, kv = task["dtype"], engine.stats()["kv_dtype"]
    # Where pairs of bfloat16 are multiplied, "auto" is bfloat16 and activations are rounded to it.
    floats = base.find("cpu").resolve_dtype("auto")
    activations = {"int8": "8-bit", "int8-a16": "15-bit"}.get(kept, floats)
    return Loaded(generate, f"{kept}, KV {kv}" if kept == "float32" else f"weights {kept}, activations {activations}, KV {kv}")


main(load, "pagecli", "torch")
