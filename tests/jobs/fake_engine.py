"""An engine that follows the engine's protocol without a model: its text is made of the prompt, its timing of a seed."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagecli.core.outputs import RequestOutput, SequenceOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import RowError


class FakeTokenizer:
    """One token a byte; no chat template unless asked for."""

    tool_template = None

    def __init__(self, has_chat_template: bool = False) -> None:
        self.has_chat_template = has_chat_template

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def apply_chat_template(self, messages: list[dict], variables: Mapping[str, Any] | None = None) -> list[int]:
        if not self.has_chat_template:
            raise RowError("the model has no chat template")
        return list("".join(f"<{m['role']}>{m['content']}" for m in messages).encode())


@dataclass(frozen=True)
class FakeStatus:
    num_waiting: int
    num_running: int
    kv_usage: float = 0.5
    num_output_tokens: int = 0
    processes: tuple = ()


class FakeEngine:
    """Every step finishes some of the running requests, which ones is up to the seed; text is the prompt reversed."""

    def __init__(self, max_num_seqs: int = 4, seed: int = 0, longest_prompt: int = 10**9) -> None:
        self._max_num_seqs = max_num_seqs
        self._random = random.Random(seed)
        self._longest_prompt = longest_prompt
        self._requests: dict[int, tuple[list[int], SamplingParams]] = {}
        self.row_keys: dict[int, int | None] = {}
        self.aborted: list[int] = []
        self.num_steps = self.num_failed_steps = 0

    def add_request(self, request_id: int, prompt_token_ids: list[int], params: SamplingParams, row_key=None) -> None:
        if len(prompt_token_ids) > self._longest_prompt:
            raise RowError(f"the prompt has {len(prompt_token_ids)} tokens", "shorten it")
        assert request_id not in self._requests
        self._requests[request_id] = (prompt_token_ids, params)
        if request_id < 1000:  # the fake's own memory must not grow either
            self.row_keys[request_id] = row_key

    def step(self) -> list[RequestOutput]:
        self.num_steps += 1
        running = list(self._requests)[: self._max_num_seqs]
        done = [request_id for request_id in running if self._random.random() < 0.5]
        return [self._output(request_id) for request_id in self._random.sample(done, len(done))]

    def _output(self, request_id: int) -> RequestOutput:
        token_ids, params = self._requests.pop(request_id)
        output = token_ids[::-1][: params.max_tokens]
        text = bytes(output).decode(errors="replace")
        sequence = SequenceOutput(0, output, text, "length" if len(output) == params.max_tokens else "stop")
        return RequestOutput(request_id, len(token_ids), (sequence,))

    def has_unfinished(self) -> bool:
        return bool(self._requests)

    def abort(self, request_id: int) -> None:
        del self._requests[request_id]
        self.aborted.append(request_id)

    def status(self) -> FakeStatus:
        return FakeStatus(len(self._requests), 0)
