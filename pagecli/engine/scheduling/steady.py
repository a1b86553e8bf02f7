"""The sequences of a batch while they do nothing but decode: what a step changes of them is changed in all of them at once.

Kept from step to step: as long as nothing else runs, the next plan is the last one's batch, a token further.
"""

from collections import deque
from collections.abc import Iterable
from itertools import compress, repeat
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.outputs import TokenLogprobs
from pagecli.core.step_plan import NO_TOKEN, Chunk, StepPlan, StepResult
from pagecli.devices.decode_step import DecodeBatch, DecodePlan
from pagecli.engine.generation import decoding
from pagecli.engine.generation.decoding import FinishCheck
from pagecli.engine.request import Request, Sequence

if TYPE_CHECKING:
    from pagecli.kv.memory import KVMemory

_last, _token_id = itemgetter(-1), attrgetter("token_id")


def _all(results: Iterable[object]) -> None:
    """Make them, and keep none."""
    deque(results, maxlen=0)


class _Planned:
    """A plan of the batch that is to be committed, and what has become of its rows meanwhile."""

    def __init__(self, plan: StepPlan) -> None:
        self.plan = plan
        self.rows: Array | None = None  # of the plan, in the order of the batch as it is now; None: all, in order
        self.last: list[tuple[Sequence, int]] = []  # whose last token the plan chooses, and their rows: left the batch already

    def row(self, row: int) -> int:
        """The plan's row of the batch's `row`."""
        return row if self.rows is None else int(self.rows[row])


class SteadyBatch:
    """Sequences that know one token more than they have computed, and are asked for one token a step until they leave."""

    def __init__(self, sequences: list[Sequence], batch: DecodeBatch, plan: StepPlan) -> None:
        """`plan`: the batch's first."""
        self._planned = [_Planned(plan)]
        self._assumed: _Planned | None = None  # whose tokens have placeholders
        self.all_stay = False  # no sequence has left its request since the last commit
        self._keep(sequences, batch)

    def _keep(self, sequences: list[Sequence], batch: DecodeBatch) -> None:
        self.sequences, self._batch = sequences, batch
        self._texts = [s.token_ids for s in sequences]
        self._num_tokens: Array = np.fromiter(map(len, self._texts), np.int64, len(sequences))
        self._num_known = int(self._num_tokens.sum())  # tokens, of all texts
        self._most_tokens = np.fromiter((s.request.max_num_tokens for s in sequences), np.int64, len(sequences))
        self._end_ids = frozenset().union(*{s.request.end_ids for s in sequences})
        self._searching = [row for row, s in enumerate(sequences) if s.stop_search is not None]
        self._scored = [row for row, (spec,) in enumerate(batch.specs) if spec.params.wants_logprobs]
        self._logprobs = [sequences[row].logprobs for row in self._scored]
        self._ranked = [row for row in self._scored if sequences[row].request.params.best_of is not None]
        self._same_rows = [(row, row) for row in range(len(sequences))]

    def __len__(self) -> int:
        return len(self.sequences)

    def remaining(self) -> "SteadyBatch | None":
        """Itself, if a sequence is left."""
        return self if self.sequences else None

    def is_as_kept(self) -> bool:
        """Whether the texts have as many tokens, together, as is known here."""
        return sum(map(len, self._texts)) == self._num_known

    def growing(self, block_size: int) -> list[int]:
        """The ids of the sequences whose next slot is the first of a block."""
        return [self._batch.seq_ids[row] for row in np.flatnonzero((self._num_tokens - 1) % block_size == 0).tolist()]

    def plan(self, kv: "KVMemory") -> StepPlan:
        """The next step; slots are reserved."""
        before = self._assumed
        feeds: list[tuple[int, int]] = []
        if before is not None:
            feeds = self._same_rows if before.rows is None else list(enumerate(before.rows.tolist()))
        last_tokens = np.fromiter(map(_last, self._texts), np.int32, len(self._texts))
        plan = DecodePlan(self._batch, self._num_tokens - 1, last_tokens, kv.take_moves(), feeds, kv.snapshot())
        self._planned.append(_Planned(plan))
        return plan

    def planned(self, plan: StepPlan) -> _Planned | None:
        """What is known of a plan of this batch."""
        return next((planned for planned in self._planned if planned.plan is plan), None)

    def take(self, plan: StepPlan) -> _Planned | None:
        """The same, for the last time."""
        found = self.planned(plan)
        if found is not None:
            self._planned.remove(found)
        return found

    def assume_computed(self, planned: _Planned, kv: "KVMemory", placeholder: int) -> tuple[dict[Sequence, int], int]:
        """OverlappedScheduler.assume_computed: the plan's row of each sequence, and how many leave: those whose last token this
        is, whatever it is."""
        self._record_computed(kv)
        self._append(repeat(placeholder))
        expected = dict(zip(self.sequences, range(len(self)) if planned.rows is None else planned.rows.tolist(), strict=True))
        ending = self._at_full_length()
        planned.last = [(self.sequences[row], planned.row(row)) for row in ending]
        self._assumed = planned
        self._leave(ending)
        return expected, len(ending)

    def commit(
        self, planned: _Planned, results: list[StepResult], kv: "KVMemory", finish_check: FinishCheck, assumed: bool
    ) -> list[Request] | None:
        """Scheduler.commit: the requests that finished; None, and nothing is recorded, where a sequence has no token.

        `assumed`: the tokens are computed, and have placeholders.
        """
        mine = results if planned.rows is None else [results[row] for row in planned.rows.tolist()]
        tokens = None if NO_TOKEN in results else self._tokens_of(mine)
        if tokens is None:
            return None
        self._assumed = None
        if assumed:
            _all(map(list.__setitem__, self._texts, repeat(-1), tokens))
        else:
            self._record_computed(kv)
            self._append(tokens)
        changed: dict[int, Request] = {}
        left = []
        for row in self._may_have_ended(tokens):
            decoding.finish_if_ended(self.sequences[row], finish_check)
            if self.sequences[row].finish_reason is not None:
                left.append(row)
                changed[planned.row(row)] = self.sequences[row].request
        for sequence, row in planned.last:
            sequence.token_ids.pop()
            decoding.apply(sequence, results[row], kv, finish_check)
            changed[row] = sequence.request
        self._leave(left)
        self.all_stay = not changed
        return list(dict.fromkeys(changed[row] for row in sorted(changed) if changed[row].finished))

    def drop_ended(self) -> None:
        """After another plan's commit: those that it ended leave."""
        self.all_stay = False
        self._leave([i for i, s in enumerate(self.sequences) if s.finish_reason is not None or s.request.failure is not None])

    def _record_computed(self, kv: "KVMemory") -> None:
        ends = self._num_tokens.tolist()
        for sequence, end in zip(self.sequences, ends, strict=True):
            sequence.num_computed = end
        kv.record_filled(zip(self._batch.seq_ids, ends, self._texts, strict=True))

    def _append(self, tokens: Iterable[int]) -> None:
        _all(map(list.append, self._texts, tokens))
        self._num_tokens = self._num_tokens + 1
        self._num_known += len(self._texts)

    def _tokens_of(self, results: list[Any]) -> list[int] | None:
        """The tokens of one result each, whose log probabilities are recorded; None, and nothing is, where one has none."""
        if not self._scored:
            return results
        are_all = len(self._scored) == len(results)
        known: list[TokenLogprobs] = results if are_all else [results[row] for row in self._scored]
        if set(map(type, known)) != {TokenLogprobs}:
            return None
        _all(map(list.append, self._logprobs, known))
        for row in self._ranked:
            self.sequences[row].sum_logprob += results[row].logprob
        if are_all:
            return list(map(_token_id, known))
        tokens = results.copy()
        for row, of_token in zip(self._scored, known, strict=True):
            tokens[row] = of_token.token_id
        return tokens

    def _may_have_ended(self, tokens: list[int]) -> list[int]:
        """Rows whose last of `tokens` may be the end of them."""
        rows = {*self._at_full_length(), *self._searching}
        if not self._end_ids.isdisjoint(tokens):
            rows.update(row for row, token_id in enumerate(tokens) if token_id in self.sequences[row].request.end_ids)
        return sorted(rows)

    def _at_full_length(self) -> list[int]:
        """Rows whose last token is the last there may be, whatever it is."""
        return np.flatnonzero(self._num_tokens >= self._most_tokens).tolist()

    def _leave(self, rows: list[int]) -> None:
        """Sequences in these rows are not in the next step."""
        if not rows:
            return
        stays = np.ones(len(self.sequences), bool)
        stays[rows] = False
        batch, which = self._batch, stays.tolist()
        ids, blocks = list(compress(batch.seq_ids, which)), list(compress(batch.block_ids, which))
        left = DecodeBatch(ids, blocks, list(compress(batch.specs, which)), list(compress(batch.adapters, which)))
        self._keep(list(compress(self.sequences, which)), left)
        kept = np.flatnonzero(stays)
        for planned in self._planned:
            planned.rows = kept if planned.rows is None else planned.rows[kept]


def begin(plan: StepPlan, sequences: list[Sequence]) -> SteadyBatch | None:
    """The batch of a plan of one token each of these sequences; None where a step may change one of them in other ways than by
    its next token."""
    if not all(map(_is_steady, plan.chunks, sequences)):
        return None
    columns = plan.columns
    batch = DecodeBatch(list(columns.seq_id), list(columns.block_ids), list(columns.specs), plan.adapters)
    return SteadyBatch(sequences, batch, plan)


def _is_steady(chunk: Chunk, sequence: Sequence) -> bool:
    """Whether its chunk is one new token after which it chooses the next, as from now on it will to its end."""
    if chunk.start < sequence.request.num_prompt_tokens or not sequence.specs:
        return False
    (spec,) = sequence.specs
    return spec.num_candidates == 0 and not spec.needs_last_token and sequence.constraint is None and sequence.scoring is None
