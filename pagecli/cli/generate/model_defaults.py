"""The model's own sampling defaults (generation_config.json) in a job's parameters, where no flag set them."""

import dataclasses

from pagecli.cli.generate.job import GenerateJob
from pagecli.cli.terminal.console import Console
from pagecli.errors import ModelError, UsageError
from pagecli.model.source import ModelSource


def with_model_defaults(job: GenerateJob, source: ModelSource, console: Console) -> GenerateJob:
    """The job, `params` completed and `of_model` what was taken. Raises ModelError for a value out of range.

    Beams are never sampled: with --beam-width the model's temperature stays out.
    """
    defaults, wanted = source.generation, set(job.open_to_model)
    if job.params.beam_width > 1:
        wanted.discard("temperature")
    taken = {name: value for name, value in defaults.params if name in wanted}
    if wanted and defaults.not_computed:
        console.warning(f"{job.engine.model}: generation_config.json sets {', '.join(defaults.not_computed)}: left out")
    if not taken:
        return job
    try:
        params = dataclasses.replace(job.params, **taken)  # type: ignore[arg-type]
    except UsageError as error:
        hint = "--generation-config none leaves it out, and so does a flag of this name"
        raise ModelError(f"{job.engine.model}: generation_config.json: {error.message}; {error.hint}", hint) from error
    return dataclasses.replace(job, params=params, of_model=tuple(sorted(taken)))
