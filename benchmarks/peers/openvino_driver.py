"""OpenVINO GenAI's continuous batching pipeline over an exported model."""

import numpy as np
import openvino as ov
import openvino_genai
from timed_run import Loaded, main

HINTS = {"float32": "f32", "bfloat16": "bf16"}  # int8: weights are int8 in the export, the rest is the library's choice


def load(task: dict) -> Loaded:
    properties: dict[str, object] = {"INFERENCE_NUM_THREADS": task["threads"], "NUM_STREAMS": 1}
    if task["dtype"] in HINTS:
        properties["INFERENCE_PRECISION_HINT"] = HINTS[task["dtype"]]
    if task["dtype"] == "float32":
        properties["KV_CACHE_PRECISION"] = "f32"  # else of 8 bits; bfloat16 it refuses on a CPU without
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = task["kv_gib"]
    scheduler.max_num_seqs = 128
    scheduler.max_num_batched_tokens = 512
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = False
    pipeline = openvino_genai.ContinuousBatchingPipeline(task["model"], scheduler, "CPU", properties)

    def generate(prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        inputs = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        settings = []
        for length in lengths:
            config = openvino_genai.GenerationConfig()
            config.max_new_tokens, config.ignore_eos, config.do_sample = length, True, False
            settings.append(config)
        return [list(result.m_generation_ids[0]) for result in pipeline.generate(inputs, settings)]

    return Loaded(generate, precision(task["dtype"], properties))


def precision(dtype: str, properties: dict[str, object]) -> str:
    """What the plugin says it infers in under these properties: a hint for what the CPU lacks is dropped without a word."""
    size_one = ov.opset13.parameter([1], np.float32)
    probe = ov.Core().compile_model(ov.Model([ov.opset13.relu(size_one)], [size_one]), "CPU", properties)
    inferred, kv = (probe.get_property(name).get_type_name() for name in ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION"))
    return f"{'int8 weights, ' if dtype == 'int8' else ''}{inferred}, KV {kv}"


main(load, "openvino-genai", "openvino")
