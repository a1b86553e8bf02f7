"""Choosing a step's tokens on the GPU: the kernels that do it, and their answer as results. Only chosen tokens, wanted log
probabilities and beams' candidates travel to the host, never logits."""

from typing import Any

import numpy as np
import torch

from pagecli.core.outputs import TokenLogprobs
from pagecli.core.step_plan import BeamCandidates, StepResult
from pagecli.devices.cpu.sampler import grouped
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.steps.choices import Choices, Sizes
from pagecli.devices.logprobs import among, tops

Tensors = dict[str, torch.Tensor]


class Answer:
    """Where a step's choices lie, on the device and on the host: tokens[D] int64, and what comes back beside them."""

    def __init__(
        self, sizes: Sizes, tokens: torch.Tensor, extra: torch.Tensor, on_host: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        num_tokens, num_bytes = sizes.num_tokens, sizes.num_extra_bytes
        self.sizes, self.tokens, self._extra = sizes, tokens[:num_tokens], extra[:num_bytes]
        self.extras = _extras(extra, sizes, torch.float32, torch.int32)
        self._host_tokens, self._host_extra = on_host[0][:num_tokens], on_host[1][:num_bytes]
        self._host_extras = _extras(on_host[1].numpy(), sizes, np.float32, np.int32)

    def fetch(self) -> None:
        """Copy all to the host."""
        self._host_tokens.copy_(self.tokens, non_blocking=True)
        if self._extra.numel():
            self._host_extra.copy_(self._extra, non_blocking=True)

    def results(self, choices: Choices) -> list[StepResult]:
        """One result for each chunk that has specs, once all is on the host."""
        tokens, asked, top = self._host_tokens.tolist(), choices.asked, self.sizes.num_top
        if not self._extra.numel():
            return tokens if asked.is_plain else grouped(choices.specs, tokens, {})
        normalizers, wanted, values, ids = self._host_extras
        found: list[int | TokenLogprobs] = tokens
        if asked.wanted_tokens:
            rows = tops(ids[:top], values[:top], asked.top_counts, normalizers[:, 0], normalizers[:, 1])
            of_tokens = [rows[row] for row in asked.wanted_normalizers]
            found = among(tokens, asked.wanted_tokens, wanted.tolist(), of_tokens)
        return grouped(choices.specs, found, _candidates(choices, ids[top:], values[top:]))


def choose(answer: Answer, logits: torch.Tensor, tensors: Tensors, choices: Choices) -> None:
    """Fills the answer, on the device. `tensors`: Choices.arrays and the step's token_ids there. The logits are changed."""
    out = answer.tokens
    if choices.is_plain:
        _draw(out, logits, tensors)
        return
    normalizers, wanted, values, ids = answer.extras
    num_top, num_candidates, kept = answer.sizes.num_top, answer.sizes.num_candidates, {}
    if "normalizer_rows" in tensors:
        kernels.log_normalizers(normalizers, logits, tensors["normalizer_rows"])
    if num_top:
        kernels.top_logits(ids[:num_top], values[:num_top], logits, tensors["top_rows"], tensors["top_offsets"])
    if num_candidates:  # penalties act on beams' log probabilities
        unused = torch.empty(len(tensors["beam_rows"]), 2, device=logits.device)
        kernels.log_normalizers(unused, logits, tensors["beam_rows"], True)
    if "penalty_rows" in tensors:
        ids_of_all, counts = tensors["penalty_ids"].view(-1), tensors["penalty_counts"].view(-1)
        kept = {"ids": ids_of_all, "before": torch.empty(len(ids_of_all), device=logits.device)}
        rows, penalties, last_tokens = tensors["penalty_rows"], tensors["penalties"], tensors["penalty_last"]
        known = tensors["penalty_offsets"], ids_of_all, counts
        kernels.apply_penalties(logits, rows, penalties, *known, kept["before"], tensors["token_ids"], last_tokens)
    if "forbidden_rows" in tensors:
        kernels.forbid_tokens(logits, tensors["forbidden_rows"], tensors["forbidden_ids"])
    if "mask_rows" in tensors:
        kernels.mask_logits(logits, tensors["mask_rows"], tensors["masks"])
    if answer.sizes.num_tokens:
        _draw(out, logits, tensors)
    if num_candidates:
        kernels.top_logits(ids[num_top:], values[num_top:], logits, tensors["beam_rows"], tensors["beam_offsets"])
    if "wanted" in tensors:
        changed = (kept["ids"], kept["before"]) if kept else (ids[:0], values[:0])
        kernels.token_logprobs(wanted, out, logits, normalizers, tensors["wanted"], *changed)


def _draw(out: torch.Tensor, logits: torch.Tensor, tensors: Tensors) -> None:
    if "draw_rows" not in tensors:
        kernels.argmax(out, logits[: out.shape[0]])
        return
    names = ("draw_rows", "temperatures", "top_k", "top_p", "min_p", "draw_keys")
    kernels.sample_tokens(out, logits, *(tensors[name] for name in names))


def _extras(buffer: Any, sizes: Sizes, float_type: Any, int_type: Any) -> tuple[Any, Any, Any, Any]:
    """normalizers [n, 2], log probabilities of tokens, largest logits (float32) and their ids (int32) in one buffer, of torch
    or numpy; the largest for log probabilities come before those of beams."""
    num_top = sizes.num_top + sizes.num_candidates
    wanted = 8 * sizes.num_normalizers
    values = wanted + 4 * sizes.num_wanted
    ids = values + 4 * num_top
    of_rows = buffer[:wanted].view(float_type).reshape(-1, 2)
    floats = buffer[wanted:values].view(float_type), buffer[values:ids].view(float_type)
    return of_rows, *floats, buffer[ids : ids + 4 * num_top].view(int_type)


def _candidates(choices: Choices, ids: np.ndarray, values: np.ndarray) -> dict[int, BeamCandidates]:
    """Of each chunk that is a beam."""
    beams, end = {}, 0
    for chunk, count in choices.asked.beam_counts:
        first, end = end, end + count
        order = np.argsort(-values[first:end], kind="stable")  # of equal ones the first id first, as they come
        likeliest, logprobs = ids[first:end][order], values[first:end][order]
        finite = np.isfinite(logprobs)
        beams[chunk] = BeamCandidates(likeliest[finite].tolist(), logprobs[finite].tolist())
    return beams
