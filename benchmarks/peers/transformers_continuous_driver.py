"""transformers' continuous batching, through its manager: the only way to give every request its own length."""

import torch
from paged_cache_length import add_paged_cache_length
from timed_run import Loaded, main
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

PAGE_SIZE = 32
MAX_REQUESTS = 32  # its attention is over all tokens of all requests at once: more of them are slower, not faster
NO_END_TOKEN = -1


def kv_bytes_per_token(config) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head_size


def load(task: dict) -> Loaded:
    torch.set_num_threads(task["threads"])
    add_paged_cache_length()
    dtype = getattr(torch, task["dtype"])
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=dtype, attn_implementation="sdpa").eval()
    affordable = task["kv_gib"] * 2**30 // (kv_bytes_per_token(model.config) * dtype.itemsize)
    num_tokens = min(affordable, MAX_REQUESTS * (task["max_model_len"] + PAGE_SIZE))
    batching = ContinuousBatchingConfig(
        page_size=PAGE_SIZE,
        num_blocks=num_tokens // PAGE_SIZE,
        max_batch_tokens=512,
        max_requests_per_batch=MAX_REQUESTS,
        allow_block_sharing=False,
        use_cuda_graph=False,
        use_async_batching=False,
    )
    greedy = GenerationConfig(do_sample=False, eos_token_id=NO_END_TOKEN, pad_token_id=0)

    @torch.inference_mode()
    def generate(prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        outputs: dict[str, list[int]] = {}
        with model.continuous_batching_context_manager(greedy, continuous_batching_config=batching, warmup=False) as manager:
            for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
                manager.add_request(prompt, str(index), max_new_tokens=length, eos_token_id=NO_END_TOKEN)
            while len(outputs) < len(prompts):
                result = manager.get_result(timeout=1)
                if result is None and not manager.is_running():
                    raise RuntimeError("its manager ended before all requests did")
                if result is not None and result.error:
                    raise RuntimeError(result.error)
                if result is not None and result.is_finished():
                    outputs[result.request_id] = result.generated_tokens
        return [outputs[str(index)] for index in range(len(prompts))]

    return Loaded(generate, task["dtype"])


main(load, "transformers", "torch")
