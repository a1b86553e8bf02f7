"""What each operation on logits means that a choice of tokens may need before and after it: plain torch, row by row."""

import torch


def log_normalizers(out: torch.Tensor, logits: torch.Tensor, rows: torch.Tensor, subtract: bool = False) -> None:
    """out[n, 2] = largest, log(sum exp(x - largest)) of x = logits[rows[n], vocab]; subtract: x becomes log softmax of x."""
    x = logits[rows.long()]
    largest = x.amax(dim=-1, keepdim=True)
    log_sum = (x - largest).exp().sum(-1, dtype=torch.float64, keepdim=True).log()
    out.copy_(torch.cat([largest.double(), log_sum], dim=-1))
    if subtract:
        logits[rows.long()] = (x - largest) - log_sum.to(x.dtype)


def top_logits(
    ids: torch.Tensor, values: torch.Tensor, logits: torch.Tensor, rows: torch.Tensor, offsets: torch.Tensor
) -> None:
    """ids, values[offsets[i]:offsets[i + 1]] = where the largest of logits[rows[i], vocab] stand, and what they are; of equal
    ones the first, in the order of ids; NaN counts as -inf."""
    for i, row in enumerate(rows.tolist()):
        first, end = int(offsets[i]), int(offsets[i + 1])
        x = logits[row].masked_fill(logits[row].isnan(), float("-inf"))
        found = x.sort(descending=True, stable=True).indices[: end - first].sort().values
        ids[first:end], values[first:end] = found.to(ids.dtype), x[found]


def likeliest_logits(
    ids: torch.Tensor, values: torch.Tensor, normalizers: torch.Tensor, logits: torch.Tensor, rows: torch.Tensor
) -> None:
    """`top_logits` and `log_normalizers` of the CPU: ids, values[n, K] = the largest of logits[rows[n], vocab], largest first,
    of equal ones the first, NaN the least; normalizers[n, 2] are NaN where no token can be chosen."""
    x = logits[rows.long()]
    order = x.masked_fill(x.isnan(), float("-inf")).sort(dim=-1, descending=True, stable=True).indices[:, : ids.shape[1]]
    ids.copy_(order)
    values.copy_(x.gather(1, order))
    log_normalizers(normalizers, logits, rows)
    normalizers[~normalizers.isfinite().all(dim=-1)] = float("nan")


def penalize(
    logits: torch.Tensor, rows: torch.Tensor, penalties: torch.Tensor, ids: torch.Tensor, counts: torch.Tensor
) -> None:
    """penalties[n, 3] on the tokens ids[n, W] that each row's sequence knows: repetition (Keskar et al., 2019) divides positive
    logits, multiplies others; presence once, and frequency for each time, is taken from tokens of the output.

    Each token of a row is there once, counts[n, W] times in the output; negative ids are no tokens.
    """
    for i, row in enumerate(rows.tolist()):
        repetition, presence, frequency = penalties[i]
        for token, count in zip(ids[i].tolist(), counts[i], strict=True):
            if token < 0:
                continue
            x = logits[row, token]
            if repetition != 1.0:
                x = x / repetition if x > 0 else x * repetition
            if count > 0:
                x = x - (presence + frequency * count)
            logits[row, token] = x


def apply_penalties(
    logits: torch.Tensor,
    rows: torch.Tensor,
    penalties: torch.Tensor,
    offsets: torch.Tensor,
    ids: torch.Tensor,
    counts: torch.Tensor,
    before: torch.Tensor,
    token_ids: torch.Tensor,
    last_tokens: torch.Tensor,
) -> None:
    """`penalize` with the tokens of all rows one after the other, as GPUs take them.

    A row's are ids[offsets[i]:offsets[i + 1]], the last entry for token_ids[last_tokens[i]]: it takes that id or, where another
    entry has it, adds its count there and takes -1. before = the logits as they were.
    """
    for i, row in enumerate(rows.tolist()):
        first, last = int(offsets[i]), int(offsets[i + 1]) - 1
        token = int(token_ids[last_tokens[i]])
        same = [entry for entry in range(first, last) if int(ids[entry]) == token]
        ids[last] = -1 if same else token
        counts[same] += counts[last].clone()
        known = slice(first, last + 1)
        there = ids[known] >= 0
        before[known][there] = logits[row, ids[known][there].long()]
        penalize(logits, rows[i : i + 1], penalties[i : i + 1], ids[None, known], counts[None, known])


def mask_logits(logits: torch.Tensor, rows: torch.Tensor, masks: torch.Tensor) -> None:
    """logits[rows[i], t] = -inf where bit t % 32 of masks[i, t // 32] is 0; masks[n, ceil(vocab / 32)] int32."""
    bits = (masks.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32)) & 1
    hidden = bits.flatten(1)[:, : logits.shape[1]] == 0
    logits[rows.long()] = logits[rows.long()].masked_fill(hidden, float("-inf"))


def forbid_tokens(logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> None:
    """logits[rows[i], ids[i]] = -inf for each i."""
    logits[rows.long(), ids.long()] = float("-inf")


def token_logprobs(
    out: torch.Tensor,
    tokens: torch.Tensor,
    logits: torch.Tensor,
    normalizers: torch.Tensor,
    wanted: torch.Tensor,
    ids: torch.Tensor,
    before: torch.Tensor,
) -> None:
    """out[i] = log probability of tokens[wanted[i, 0]] (NaN where negative) under the logits before any penalty.

    wanted[n, 5]: the token, its row of logits, of normalizers (of `log_normalizers`), and from where to where in ids and before
    (of `apply_penalties`) its row's entries are.
    """
    for i, (at, row, normalizer, first, end) in enumerate(wanted.tolist()):
        token = int(tokens[at])
        if token < 0:
            out[i] = float("nan")
            continue
        entry = (ids[first:end] == token).nonzero()
        logit = before[first + int(entry[0])] if len(entry) else logits[row, token]
        out[i] = logit - normalizers[normalizer, 0] - normalizers[normalizer, 1]
