"""Choosing a step's tokens on the GPU: the kernels that do it, and their answer as results. Only chosen tokens, wanted log
probabilities and beams' candidates travel to the host, never logits."""

from typing import Any

import numpy as np
import torch

from pagecli.core.outputs import TokenLogprobs
from pagecli.core.step_plan import BeamCandidates, StepResult
from pagecli.devices.cpu.sampler import grouped
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.steps.choices import Choices
from pagecli.devices.logprobs import among, tops

Tensors = dict[str, torch.Tensor]


def choose(out: torch.Tensor, extra: torch.Tensor, logits: torch.Tensor, tensors: Tensors, choices: Choices) -> None:
    """out[D] (int64) = the tokens; extra (bytes) = what comes back beside them. `tensors`: Choices.arrays and the step's
    token_ids on the device. The logits are changed."""
    if choices.is_plain:
        _draw(out, logits, tensors)
        return
    normalizers, wanted, values, ids = extras(extra, choices, torch.float32, torch.int32)
    num_top, kept = choices.num_top, {}
    if "normalizer_rows" in tensors:
        kernels.log_normalizers(normalizers, logits, tensors["normalizer_rows"])
    if num_top:
        kernels.top_logits(ids[:num_top], values[:num_top], logits, tensors["top_rows"], tensors["top_offsets"])
    if choices.num_candidates:  # penalties act on beams' log probabilities
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
    if choices.num_tokens:
        _draw(out, logits, tensors)
    if choices.num_candidates:
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


def extras(buffer: Any, choices: Choices, float_type: Any, int_type: Any) -> tuple[Any, Any, Any, Any]:
    """normalizers [n, 2], log probabilities of tokens, largest logits (float32) and their ids (int32) in one buffer, of torch
    or numpy; the largest for log probabilities come before those of beams."""
    num_top = choices.num_top + choices.num_candidates
    wanted = 8 * choices.num_normalizers
    values = wanted + 4 * choices.num_wanted
    ids = values + 4 * num_top
    of_rows = buffer[:wanted].view(float_type).reshape(-1, 2)
    floats = buffer[wanted:values].view(float_type), buffer[values:ids].view(float_type)
    return of_rows, *floats, buffer[ids : ids + 4 * num_top].view(int_type)


def results(choices: Choices, tokens: list[int], extra: torch.Tensor) -> list[StepResult]:
    """One result for each chunk that has specs; tokens and extra as `choose` wrote them, on the host."""
    if choices.is_plain:
        return list(tokens)
    normalizers, wanted, values, ids = extras(extra.numpy(), choices, np.float32, np.int32)
    found: list[int | TokenLogprobs] = list(tokens)
    top = choices.num_top
    if choices.num_normalizers:
        asked = choices.asked
        rows = tops(ids[:top], values[:top], asked.top_counts, normalizers[:, 0], normalizers[:, 1])
        of_tokens = [rows[row] for row in asked.wanted_normalizers]
        found = among(tokens, asked.wanted_tokens, wanted.tolist(), of_tokens)
    return grouped(choices.specs, found, _candidates(choices, ids[top:], values[top:]))


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
