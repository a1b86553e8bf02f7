"""A model class for lm-evaluation-harness (Gao et al., "A framework for few-shot language model evaluation", 2021).

    lm_eval.simple_evaluate(model=PagecliLM("smollm2-135m", dtype="float32"), tasks=[...])
    lm_eval.simple_evaluate(model=PagecliLM("smollm2-135m", lora={"polite": "./polite"}), tasks=[...])

The requests of a call run in one engine: those that begin alike share what they have in common, and the choices of one question
its whole context. Tokens are made and windows are cut as the harness' own transformers model does, so that figures can be
compared.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from pagecli.core.engine_config import EngineConfig
from pagecli.core.outputs import RequestOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.errors import ModelError, RowError, UsageError

MAX_GEN_TOKENS = 256  # where a task does not say
SAMPLING = {"temperature": float, "top_k": int, "top_p": float, "min_p": float, "repetition_penalty": float}
Encoded = tuple[Any, list[int], list[int]]  # what the harness asked for, context, continuation
Score = tuple[float, bool]  # log probability, whether every token is the greedy one


class PagecliLM(TemplateLM):
    """`model`: a name, an id, a directory or a .gguf file; `lora`: LoRA adapters, names and directories; `settings`: of
    EngineConfig. Raises ModelError, UsageError.

    Requests take the adapter that is called `adapter`, "" for none; by default the only one. It may be set between calls.
    A context that is too long loses its beginning, as with the harness' own models. A request that fails raises RowError.
    """

    def __init__(
        self,
        model: str,
        *,
        lora: Mapping[str, str] | None = None,
        adapter: str | None = None,
        max_gen_tokens: int = MAX_GEN_TOKENS,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        named = dict(lora or {})
        self.adapter = adapter if adapter is not None else next(iter(named), "") if len(named) == 1 else ""
        config = EngineConfig(model, loras=tuple(named.items()), **settings)
        if self.adapter and self.adapter not in named:
            raise UsageError(f"adapter is {self.adapter!r}, which lora does not name", f"it names {', '.join(named) or 'none'}")
        self.engine = Engine(config)
        self._model, self._max_gen_tokens, self._seed = model, max_gen_tokens, seed

    @property
    def eot_token_id(self) -> int:
        ids = self.engine.tokenizer.eos_token_ids
        if not ids:
            raise ModelError(f"{self._model} has no end token", "requests without a context begin with it")
        return ids[0]

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        first = self.engine.tokenizer.bos_token_id
        return self.eot_token_id if first is None else first

    @property
    def max_length(self) -> int:
        """Tokens that the model sees."""
        return self.engine.max_model_len

    @property
    def tokenizer_name(self) -> str:
        return self._model

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if not add_generation_prompt:
            raise RowError("a chat that goes on in the assistant's words is not supported", "leave out fewshot_as_multiturn")
        return self.tok_decode(self.engine.tokenizer.apply_chat_template(chat_history))

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        token_ids = self.engine.tokenizer.encode(string)
        return token_ids[len(self.engine.tokenizer.encode("")) :] if add_special_tokens is False else token_ids

    def tok_decode(self, token_ids: list[int]) -> str:
        return self.engine.tokenizer.decode(token_ids, False)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log probability of each text, in windows of the model's length; the first token follows `prefix_token_id`."""
        windows: list[Encoded] = []
        owners = []
        for number, request in enumerate(requests):
            (text,) = request.args
            token_ids = self.tok_encode(text)
            for pair in get_rolling_token_windows(token_ids, self.prefix_token_id, self.max_length, context_len=1):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[number] += logprob
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def _loglikelihood_tokens(self, requests: list[Encoded], **kwargs: Any) -> list[Score]:
        groups: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
        for i, (_, context, continuation) in enumerate(requests):
            continuation = continuation[-self.max_length :]
            kept = context[-(self.max_length + 1 - len(continuation)) :]
            groups.setdefault(tuple(kept), {}).setdefault(tuple(continuation), []).append(i)
        most = min(64, self.engine.config.max_num_seqs)
        batches = [
            (context, list(choices.items())[first : first + most])
            for context, choices in groups.items()
            for first in range(0, len(choices), most)
        ]

        def add(number: int) -> None:
            kept_ids, members = batches[number]
            self.engine.add_score_request(number, list(kept_ids), [list(choice) for choice, _ in members], lora=self.adapter)

        found: list[Score] = [(0.0, False)] * len(requests)
        for output in self._outputs(add, len(batches)):
            for sequence, (_, indices) in zip(output.sequences, batches[output.request_id][1], strict=True):
                scores = sequence.token_scores or []
                for i in indices:
                    found[i] = (sequence.score or 0.0, all(score.is_greedy for score in scores))
        for (asked, _, _), score in zip(requests, found, strict=True):
            if asked is not None:
                self.cache_hook.add_partial("loglikelihood", asked, score)
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The text behind each context, up to a stop string, the end token or the most tokens."""

        def add(number: int) -> None:
            context, given = requests[number].args
            wanted = normalize_gen_kwargs(given, self._max_gen_tokens)
            until = [stop for stop in handle_stop_sequences(wanted.get("until"), eos=None) if stop]
            sampling = {name: kind(wanted[name]) for name, kind in SAMPLING.items() if wanted.get(name) is not None}
            max_tokens = wanted["max_gen_toks"]
            prompt = self.tok_encode(context)[-max(1, self.max_length - max_tokens) :]
            params = SamplingParams(max_tokens=max_tokens, stop=tuple(until), seed=self._seed, lora=self.adapter, **sampling)
            self.engine.add_request(number, prompt, params)

        texts = [""] * len(requests)
        for output in self._outputs(add, len(requests)):
            texts[output.request_id] = output.sequences[0].text
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _outputs(self, add: Callable[[int], None], count: int) -> Iterator[RequestOutput]:
        """Adds so many requests by their numbers, and runs them. Raises RowError; then none of them is left in the engine, of
        which the next call's would have the same numbers."""
        left = set[int]()
        try:
            for number in range(count):
                add(number)
                left.add(number)
            while self.engine.has_unfinished():
                outputs = self.engine.step()
                left.difference_update(output.request_id for output in outputs)
                for output in outputs:
                    if output.error is not None:
                        raise RowError(f"request {output.request_id}: {output.error}")
                    yield output
        finally:
            for number in left:
                self.engine.abort(number)
