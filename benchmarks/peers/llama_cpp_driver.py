"""llama.cpp through llama-cpp-python's low-level API: a loop that keeps `parallel` sequences running and refills them.

The package itself offers no such loop; with `parallel` 1 it is one request at a time.
"""

import ctypes
from collections import deque
from dataclasses import dataclass

import llama_cpp
import numpy as np
from timed_run import Loaded, main

BATCH_TOKENS = 512


@dataclass
class Running:
    row: int
    todo: list[int]  # tokens not yet in the KV cache
    position: int = 0


class Decoder:
    """A llama.cpp context and its batch; decodes one batch over many sequences at a time."""

    def __init__(self, path: str, parallel: int, max_model_len: int, threads: int) -> None:
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = parallel * (-(-max_model_len // 256) * 256)
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_seq_max = parallel
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(model, params)
        if not self.context:
            raise RuntimeError("llama.cpp could not make a context")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)

    def put(self, slot: int, sequence: Running) -> bool:
        """Add what fits of the sequence's tokens to the batch; whether its last token is in."""
        batch = self.batch
        taken = sequence.todo[: BATCH_TOKENS - batch.n_tokens]
        del sequence.todo[: len(taken)]
        for token in taken:
            at = batch.n_tokens
            batch.token[at], batch.pos[at], batch.logits[at] = token, sequence.position, 0
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, slot
            batch.n_tokens += 1
            sequence.position += 1
        if taken and not sequence.todo:
            batch.logits[batch.n_tokens - 1] = 1
        return bool(taken) and not sequence.todo

    def run(self) -> None:
        code = llama_cpp.llama_decode(self.context, self.batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")

    def likeliest(self, at: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self.context, at)
        return int(np.ctypeslib.as_array(logits, shape=(self.vocab_size,)).argmax())

    def forget(self, slot: int) -> None:
        llama_cpp.llama_memory_seq_rm(self.memory, slot, -1, -1)


def load(task: dict) -> Loaded:
    global silent  # llama.cpp keeps a pointer to it
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    parallel = task["parallel"]
    decoder = Decoder(task["model"], parallel, task["max_model_len"], task["threads"])

    def generate(prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        outputs: list[list[int]] = [[] for _ in prompts]
        waiting, free, running = deque(range(len(prompts))), list(range(parallel)), {}
        while waiting or running:
            while waiting and free:
                row = waiting.popleft()
                running[free.pop()] = Running(row, list(prompts[row]))
            decoder.batch.n_tokens = 0
            due = []  # (slot, place in the batch) of every sequence that gets a token from this batch
            for slot, sequence in sorted(running.items(), key=lambda item: len(item[1].todo)):
                if decoder.put(slot, sequence):
                    due.append((slot, decoder.batch.n_tokens - 1))
            decoder.run()
            for slot, at in due:
                sequence = running[slot]
                output = outputs[sequence.row]
                output.append(decoder.likeliest(at))
                sequence.todo = [output[-1]]
                if len(output) == lengths[sequence.row]:
                    decoder.forget(slot)
                    free.append(slot)
                    del running[slot]
        return outputs

    kept = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0", "q4_1": "Q4_1"}[task["dtype"]]
    return Loaded(generate, f"weights {kept}, KV cache F16")


main(load, "llama-cpp-python")
