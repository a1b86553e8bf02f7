"""Choosing a step's tokens on the GPU: the kernels that do it, and their answer as results. Only chosen tokens, wanted log
probabilities and beams' candidates travel to the host, never logits."""

from collections.abc import Iterator

import numpy as np
import torch

from pagecli.core.outputs import TokenLogprobs
from pagecli.core.step_plan import NO_TOKEN, BeamCandidates, SampledToken, StepResult
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.steps.choices import Choices, wants_logprobs

Tensors = dict[str, torch.Tensor]


def choose(out: torch.Tensor, extra: torch.Tensor, logits: torch.Tensor, tensors: Tensors, choices: Choices) -> None:
    """out[D] (int64) = the tokens; extra (bytes) = what comes back beside them. `tensors`: Choices.arrays and the step's
    token_ids on the device. The logits are changed."""
    if choices.is_plain:
        _draw(out, logits, tensors)
        return
    normalizers, wanted, values, ids = extras(extra, choices)
    num_top, kept = choices.num_top, {}
    if "normalizer_rows" in tensors:
        kernels.log_normalizers(normalizers, logits, tensors["normalizer_rows"])
    if num_top:
        kernels.top_logits(ids[:num_top], values[:num_top], logits, tensors["top_rows"], tensors["top_offsets"])
    if choices.num_candidates:  # penalties act on beams' log probabilities
        unused = torch.empty(len(tensors["beam_rows"]), 2, device=logits.device)
        kernels.log_normalizers(unused, logits, tensors["beam_rows"], True)
    if "penalty_rows" in tensors:
        kept = {"ids": tensors["penalty_ids"], "before": torch.empty(len(tensors["penalty_ids"]), device=logits.device)}
        rows, penalties, last_tokens = tensors["penalty_rows"], tensors["penalties"], tensors["penalty_last"]
        known = tensors["penalty_offsets"], tensors["penalty_ids"], tensors["penalty_counts"]
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
        none = torch.empty(0, device=logits.device)
        changed = kept.get("ids", none.int()), kept.get("before", none)
        kernels.token_logprobs(wanted, out, logits, normalizers, tensors["wanted"], *changed)


def _draw(out: torch.Tensor, logits: torch.Tensor, tensors: Tensors) -> None:
    if "draw_rows" not in tensors:
        kernels.argmax(out, logits[: out.shape[0]])
        return
    names = ("draw_rows", "temperatures", "top_k", "top_p", "min_p", "draw_keys")
    kernels.sample_tokens(out, logits, *(tensors[name] for name in names))


def extras(buffer: torch.Tensor, choices: Choices) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """normalizers [n, 2], log probabilities of tokens, largest logits (all float32) and their ids (int32) in one buffer; the
    largest for log probabilities come before those of beams."""
    num_top = choices.num_top + choices.num_candidates
    sizes = [8 * choices.num_normalizers, 4 * choices.num_wanted, 4 * num_top, 4 * num_top]
    normalizers, wanted, values, ids = buffer[: sum(sizes)].split(sizes)
    floats = [part.view(torch.float32) for part in (normalizers, wanted, values)]
    return floats[0].view(-1, 2), floats[1], floats[2], ids.view(torch.int32)


def results(choices: Choices, tokens: list[int], extra: torch.Tensor) -> list[StepResult]:
    """One result for each chunk that has specs; tokens and extra as `choose` wrote them, on the host."""
    if choices.is_plain:
        return list(tokens)
    normalizers, wanted, values, ids = (part.numpy() for part in extras(extra, choices))
    next_token, next_logprob, next_normalizers = iter(tokens), iter(wanted.tolist()), iter(normalizers)
    top, beam = 0, choices.num_top  # where the next largest logits are
    found: list[StepResult] = []
    for of_chunk in choices.specs:
        first = of_chunk[0]
        if first.num_candidates > 0:
            end = beam + min(first.num_candidates, choices.vocab_size)
            likeliest, logprobs = _best_first(ids[beam:end], values[beam:end])
            finite = np.isfinite(logprobs)
            found.append(BeamCandidates(likeliest[finite].tolist(), logprobs[finite].tolist()))
            beam = end
        elif wants_logprobs(first):
            end, (largest, log_sum) = top + min(first.params.logprobs or 0, choices.vocab_size), next(next_normalizers)
            likeliest, logits = _best_first(ids[top:end], values[top:end])
            pairs = tuple(zip(likeliest.tolist(), (logits - largest - log_sum).tolist(), strict=True))
            found.append(tuple(_sampled(next_token, next_logprob, pairs) for _ in of_chunk))
            top = end
        elif len(of_chunk) == 1:
            found.append(next(next_token))
        else:
            found.append(tuple(SampledToken(next(next_token)) for _ in of_chunk))
    return found


def _best_first(ids: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of equal ones the first id first, as they come."""
    order = np.argsort(-values, kind="stable")
    return ids[order], values[order]


def _sampled(tokens: Iterator[int], logprobs: Iterator[float], top: tuple[tuple[int, float], ...]) -> SampledToken:
    token_id, logprob = next(tokens), next(logprobs)
    return SampledToken(token_id, TokenLogprobs(token_id, logprob, top) if token_id != NO_TOKEN else None)
