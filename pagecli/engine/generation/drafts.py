"""Several tokens of a sequence in one step: drafts are computed behind its last token, as a prefill chunk is, and those hold
that the model chooses itself (Leviathan et al., ICML 2023; a draft here is one certain token, not a distribution).

    known    ... the cat        drafts  sat on the       logits of   cat   sat   on    the
    chosen                                                           sat   on    a     -        so 3 tokens came of one step

Each choice is made from the same logits, and by the same draw, as if the tokens had come one by one: a chunk and a decode have
the same bits, and draws are keyed by position. So drafts change how many steps a text takes, never the text. K and V of drafts
that did not hold stay in their slots until the next tokens overwrite them; blocks beyond those are given back.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pagecli.core.outputs import TokenLogprobs
from pagecli.core.step_plan import NO_TOKEN, Choice, Chunk, DraftResult, DraftSpec, SampleSpec
from pagecli.engine.generation import decoding
from pagecli.engine.generation.decoding import FinishCheck
from pagecli.engine.request import Sequence

if TYPE_CHECKING:
    from pagecli.kv.memory import KVMemory


class Drafter(Protocol):
    """Guesses what sequences go on with."""

    max_sequences: int  # of a step that drafts are tried in

    def propose(self, sequence: Sequence, max_tokens: int) -> list[int]:
        """At most so many tokens that may follow the sequence's known ones; none where it has no good guess."""
        ...

    def record(self, sequence: Sequence, num_drafts: int, num_accepted: int) -> None:
        """So many of the sequence's drafts were right."""
        ...

    def stats(self) -> dict[str, object]:
        """How the drafts fared, for the --stats file."""
        ...


def with_drafts(sequence: Sequence, chunk: Chunk, draft_ids: list[int], kv: "KVMemory", finish_check: FinishCheck) -> Chunk:
    """The sequence's chunk with the drafts behind it; the chunk as it is where there are no free blocks for them."""
    if not kv.reserve(sequence.seq_id, chunk.context_len + len(draft_ids)):
        return chunk
    specs = tuple(_spec_behind(sequence, chunk.specs[0], draft_ids[:i], finish_check) for i in range(len(draft_ids) + 1))
    return chunk._replace(
        token_ids=chunk.token_ids + draft_ids,
        block_ids=kv.block_table(sequence.seq_id),
        specs=specs,
        wanted=DraftSpec(len(chunk.token_ids) - 1),
    )


def _spec_behind(sequence: Sequence, spec: SampleSpec, draft_ids: list[int], finish_check: FinishCheck) -> SampleSpec:
    """The choice behind so many drafts, as it will be if they hold."""
    if not draft_ids or (spec.is_argmax and sequence.specs):  # which stays the same to the sequence's end
        return spec
    too_early = sequence.num_output_tokens + len(draft_ids) < spec.params.min_tokens
    forbidden = spec.forbidden_ids if too_early else ()
    return replace(spec, known_token_ids=spec.known_token_ids + draft_ids, forbidden_ids=forbidden)


def apply(sequence: Sequence, chunk: Chunk, result: DraftResult, kv: "KVMemory", finish_check: FinishCheck) -> int:
    """Append the choices one after the other, until one is not the draft behind it or ends the sequence.

    Returns how many drafts held.
    """
    assert isinstance(chunk.wanted, DraftSpec)
    draft_ids = chunk.token_ids[chunk.wanted.first + 1 :]
    num_appended = 0
    for choice, draft in zip(result.chosen, [*draft_ids, NO_TOKEN], strict=True):
        decoding.apply(sequence, choice, kv, finish_check)
        if sequence.request.failure is not None:
            return 0
        num_appended += 1
        if _token_of(choice) != draft or sequence.finish_reason is not None:
            break
    sequence.num_computed = sequence.num_tokens - 1
    kv.record_filled([(sequence.seq_id, sequence.num_computed, sequence.token_ids)])
    kv.shrink(sequence.seq_id)
    return num_appended - 1


def _token_of(choice: Choice) -> int:
    if isinstance(choice, int):
        return choice
    assert isinstance(choice, TokenLogprobs)
    return choice.token_id


def accepted_part(sequence: Sequence, chunk: Chunk) -> Chunk:
    """The chunk with those of its drafts that held, after they were applied."""
    if not isinstance(chunk.wanted, DraftSpec):
        return chunk
    num_tokens = sequence.num_computed - chunk.start
    return chunk._replace(token_ids=chunk.token_ids[:num_tokens], specs=chunk.specs[: num_tokens - chunk.wanted.first])
