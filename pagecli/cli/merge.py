"""`pagecli merge`: the outputs of --shard parts into one."""

from itertools import chain
from signal import Signals
from typing import Annotated

import typer

from pagecli.cli.flags import engine_and_sampling as flags
from pagecli.cli.flags import row_options as row_flags
from pagecli.cli.settings import notes, settings_files
from pagecli.cli.terminal.console import Console, exit_code_of
from pagecli.core.file_targets import NamedPath, check_distinct, on_this_machine
from pagecli.errors import UsageError
from pagecli.jobs.run.stop_signals import StopRequested, stop_signals

Parts = Annotated[list[str], typer.Argument(metavar="PART... OUTPUT", help="Outputs of generate --shard, then the output.")]


def merge(
    context: typer.Context,
    paths: Parts,
    compression: row_flags.Compression = "zstd",
    overwrite: flags.Overwrite = False,
    no_config: flags.NoConfig = False,
    quiet: flags.Quiet = False,
    verbose: flags.Verbose = False,
) -> int:
    """Put the outputs of generate --shard I/N together, in the input's order.

    All parts must be there, each once. The result is what one run without
    --shard writes.
    """
    console = Console(quiet and not verbose, verbose)

    def run() -> int:
        for line in notes(context):
            console.warning(line)
        if len(paths) < 2:
            raise UsageError("merge needs the parts and an output", "pagecli merge part-*.parquet all.parquet")
        from pagecli.jobs.shards.merge import merge_outputs

        files = [str(on_this_machine(path)) for path in paths]

        parts = (NamedPath("PART", part) for part in files[:-1])
        check_distinct([NamedPath("OUTPUT", files[-1])], chain(parts, settings_files()))
        with stop_signals() as signals:
            try:
                merged = merge_outputs(files[:-1], files[-1], overwrite, compression)
            except BaseException as error:
                if signals.received is None:
                    raise
                console.error(f"stopped by {Signals(signals.received).name}")
                raise StopRequested(signals.received) from error
        console.note(f"{merged.num_rows:,} rows of {merged.num_parts} parts in {files[-1]}")
        return 0

    return exit_code_of(run, console)
