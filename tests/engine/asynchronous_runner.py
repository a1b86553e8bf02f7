"""A CPU's runner as an asynchronous device's: a step may be planned after one whose results were not collected."""

from pagecli.core.outputs import TokenLogprobs
from pagecli.core.step_plan import BeamCandidates
from pagecli.devices.cpu.device import ModelRunner
from pagecli.devices.decode_step import DecodePlan


class AsynchronousRunner(ModelRunner):
    """Feeds the tokens that the step launched last chose to the next one. `engine.ModelRunner` is patched with it."""

    is_asynchronous = True
    _sampled = ()

    def can_pipeline(self, plan):
        penalized = any(spec.params.has_penalties for chunk in plan.chunks for spec in chunk.specs)  # by tokens of the host
        return not plan.has_wanted and not penalized

    def launch(self, plan):
        rows = [(chunk, i) for chunk in plan.chunks for i in range(len(chunk.token_ids))]
        for row, source in plan.feeds:
            chunk, at = rows[row]
            chunk.token_ids[at] = max(0, self._sampled[source])  # of a request that ends where there was NO_TOKEN
            if isinstance(plan, DecodePlan):
                plan.last_tokens[row] = chunk.token_ids[at]
        pending = super().launch(plan)
        if plan.has_wanted:  # no step is fed by it
            return pending
        chosen = [
            [r] if isinstance(r, int | TokenLogprobs) else r for r in pending.results if not isinstance(r, BeamCandidates)
        ]
        self._sampled = [t if isinstance(t, int) else t.token_id for tokens in chosen for t in tokens]
        return pending
