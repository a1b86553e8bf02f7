"""The replay part of a profile: the workload under every memory policy beside the paper's figures; block sizes; sharing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pagecli.cli.profile.replay_cases import replay_cases
from pagecli.cli.profile.section import Section
from pagecli.profiler.plan.plan_json import policy_json
from pagecli.profiler.recording.records import PolicyResult
from pagecli.profiler.replay.paper_figures import system_for
from pagecli.profiler.replay.replay import SHARING_CASE, replay
from pagecli.profiler.replay.replay_clock import ReplayCase, ReplaySettings
from pagecli.profiler.workloads.workloads import Workload, built_in

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from pagecli.cli.profile.plan import PlannedJob
    from pagecli.profiler.plan.plan import Plan
    from pagecli.profiler.replay.last_block_waste import BlockSizeWaste
    from pagecli.profiler.replay.sharing import SharingResult

LONGEST_RESERVED = 2048  # what reserve-max holds on models that go further: as the paper's
# Kwon et al., SOSP 2023, figure 15: percent of blocks saved with 2, 4 and 6 sequences, Alpaca; of ShareGPT the range.
PAPER_SAVINGS = {
    ("alpaca", "samples"): "6.1 / 8.5 / 9.8",
    ("alpaca", "beams"): "37.6 / 53.1 / 55.2",
    ("sharegpt", "samples"): "16.2 to 30.5",
    ("sharegpt", "beams"): "44.3 to 66.3",
}


def replay_section(job: "PlannedJob", values: Mapping[str, Any]) -> Section:
    """Every policy on the planned cache; relative_throughput is output tokens/s over those of paged + continuous."""
    from pagecli.profiler.plan.estimate import step_time_of

    cases = replay_cases(values["policies"], job.workload)
    if not job.plan.fits:
        return Section({"replay": []}, [_line("No replay: there is no KV cache.", "dim")])
    settings = settings_of(job.plan)
    results = replay(job.workload, settings, step_time_of(job.plan), cases)
    paged = _speed_of_paged(results)
    rows = [policy_json(r) | {"relative_throughput": r.output_tokens_per_second / paged if paged else None} for r in results]
    shown: list[RenderableType] = [_line(""), replay_table(results, job.workload), *_notes(results, job, settings)]
    return Section({"replay": rows}, shown, results)


def settings_of(plan: "Plan") -> ReplaySettings:
    """The plan's cache and limits."""
    settings = plan.settings
    return ReplaySettings(
        num_slots=plan.kv_slots,
        reserved_len=min(settings.config.max_positions, LONGEST_RESERVED),
        block_size=settings.block_size,
        max_num_seqs=settings.max_num_seqs,
        max_batch_tokens=max(settings.max_batch_tokens, settings.max_num_seqs),
    )


def _speed_of_paged(results: Sequence[PolicyResult]) -> float | None:
    """Output tokens/s of paged + continuous; None if it was not among those asked for."""
    paged = [r for r in results if r.policy == "paged" and r.batching == "continuous" and not r.prefix_caching]
    return paged[0].output_tokens_per_second if paged else None


def _ratio(value: float, base: float) -> float:
    return value / base if base > 0 else 0.0


def replay_table(results: Sequence[PolicyResult], workload: Workload) -> "Table":
    """A row a policy: shares of KV memory, mean batch, throughput over paged; the paper's figures below.

    The shares of its figure 2 are of texts as long as ShareGPT's (20.4 % of 15,728 slots in 7 sequences: 458 tokens each), so
    they are left out beside Alpaca's, of whose mean batches figure 13 tells.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Replay: where KV slots went, % of all", title_justify="left")
    table.add_column("policy")
    for name in ("token\nstates", "reserved", "internal\nfragm.", "external\nfragm.", "mean\nbatch", "throughput\nof paged"):
        table.add_column(name, justify="right", no_wrap=True)
    paged = _speed_of_paged(results)
    for r in results:
        shares, paper = r.shares, system_for(r.policy, r.batching)
        paper = None if r.prefix_caching else paper
        name = f"{r.policy}, {r.batching}" + (", prefixes shared" if r.prefix_caching else "")
        known = None if workload.name == "alpaca" else paper
        batch = paper.mean_batch.get(workload.name) if paper else None
        table.add_row(
            name + (f"\n[dim]  paper: {paper.name}[/dim]" if paper else ""),
            _beside(shares.token_states, known.token_states if known else None, paper is not None),
            _beside(shares.reservation, known.reservation if known else None, paper is not None),
            _beside(shares.internal_fragmentation, known.internal_fragmentation if known else None, paper is not None),
            _beside(shares.external_fragmentation, known.external_fragmentation if known else None, paper is not None),
            _beside(r.mean_batch, batch, paper is not None),
            "-" if not paged else f"{r.output_tokens_per_second / paged:.2f}x",
        )
    return table


def _beside(ours: float, papers: float | None, has_paper: bool) -> str:
    """Our figure, the paper's under it."""
    below = "" if not has_paper else "\n[dim]-[/dim]" if papers is None else f"\n[dim]{papers:g}[/dim]"
    return f"{ours:.1f}{below}"


def _notes(results: Sequence[PolicyResult], job: "PlannedJob", settings: ReplaySettings) -> "list[RenderableType]":
    rate = job.workload.requests_per_second
    arrivals = f"{rate:g} requests/s" if rate else "all requests there from the start"
    if not rate and any(r.arrival_seconds for r in job.workload.requests):
        arrivals = "arriving as the file says"
    lines = [
        f"{results[0].num_requests:,} requests, {arrivals}; {settings.num_slots:,} slots; blocks of {settings.block_size}. "
        "Means over steps of the steady part; step times are the roofline's.",
        "reserve-*: contiguous, buddy allocator, for the longest sequence "
        f"({settings.reserved_len:,}), the output rounded up to a power of two, or the true length.",
        "Paper: SOSP 2023, figures 2 and 13; OPT-13B on an A100-40GB, ShareGPT at 2 and Alpaca at 30 requests/s.",
    ]
    refused = [(r, int(r.details["num_refused"])) for r in results if r.details["num_refused"]]
    lines += [f"{r.policy}, {r.batching}: {count:,} requests could never fit and are left out." for r, count in refused]
    return [_line(line, "dim") for line in lines]


def block_sizes_section(job: "PlannedJob", values: Mapping[str, Any]) -> Section:
    """--block-sizes: empty slots in last blocks, by arithmetic, of the workload and the built-in ones; replayed as well."""
    from pagecli.profiler.plan.estimate import step_time_of
    from pagecli.profiler.replay.last_block_waste import parse_block_sizes, waste_by_block_size

    sizes = parse_block_sizes(values["block_sizes"])
    workloads = {w.name: w for w in (job.workload, built_in("sharegpt"), built_in("alpaca"))}
    wastes = [waste for workload in workloads.values() for waste in waste_by_block_size(workload, sizes)]
    results: list[PolicyResult] = []
    if job.plan.fits:
        plan_settings = settings_of(job.plan)
        for size in sizes:
            settings = ReplaySettings(
                plan_settings.num_slots,
                plan_settings.reserved_len,
                size,
                plan_settings.max_num_seqs,
                plan_settings.max_batch_tokens,
            )
            results += replay(job.workload, settings, step_time_of(job.plan), [ReplayCase("paged")])
    fields = {"block_sizes": {"last_block_waste": [asdict(w) for w in wastes], "replay": [policy_json(r) for r in results]}}
    return Section(fields, [_line(""), _block_sizes_table(sizes, wastes, results, job.workload.name)], results)


def _block_sizes_table(
    sizes: Sequence[int], wastes: "Sequence[BlockSizeWaste]", results: Sequence[PolicyResult], replayed: str
) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Block sizes: empty slots, % of those held", title_justify="left")
    table.add_column("block size", justify="right")
    names = list(dict.fromkeys(w.workload for w in wastes))
    for name in names:
        table.add_column(name, justify="right")
    if results:
        table.add_column(f"token states,\n{replayed} replayed", justify="right")
        table.add_column("mean\nbatch", justify="right")
    share = {(w.workload, w.block_size): w.wasted_percent for w in wastes}
    for at, size in enumerate(sizes):
        replays = [f"{results[at].shares.token_states:.1f}", f"{results[at].mean_batch:.1f}"] if results else []
        table.add_row(str(size), *(f"{share[name, size]:.2f}" for name in names), *replays)
    return table


def sharing_section(job: "PlannedJob", values: Mapping[str, Any]) -> Section:
    """--sharing: blocks saved by samples and beams of one prompt, and by prompts that begin alike."""
    from pagecli.profiler.plan.estimate import step_time_of
    from pagecli.profiler.replay.sharing import sharing

    if not job.plan.fits:
        return Section({"sharing": None}, [_line("No sharing to show: there is no KV cache.", "dim")])
    timer = step_time_of(job.plan)
    saved = sharing(job.workload, settings_of(job.plan), timer)
    fields: dict[str, Any] = {"decoding": [asdict(one) for one in saved], "prefixes": None}
    shown: list[RenderableType] = [_line(""), _sharing_table(saved, job.workload.name)]
    if job.workload.prefix_block_size:
        plain, shared = replay(job.workload, settings_of(job.plan), timer, [ReplayCase("paged"), SHARING_CASE])
        prompts = sum(r.prompt_tokens for r in job.workload.requests)
        cached = 100 * shared.details["prefill_tokens_cached"] / prompts
        gain = _ratio(shared.output_tokens_per_second, plain.output_tokens_per_second)
        fields["prefixes"] = {"cached_percent": cached, "throughput_gain": gain, "mean_batch_gain": _gain(shared, plain)}
        text = f"Prefixes: {cached:.1f} % of prompt tokens found in the cache, {gain:.2f} times the throughput of going without"
        shown.append(_line(f"{text} (paper, OPT-13B: 1.67x with 80 shared tokens, 3.58x with 341, over Orca Oracle)."))
    shown.append(_line("Beams: candidates are drawn at random; a model that is surer of its text shares more.", "dim"))
    return Section({"sharing": fields}, shown)


def _gain(shared: PolicyResult, plain: PolicyResult) -> float:
    return _ratio(shared.mean_batch, plain.mean_batch)


def _sharing_table(saved: "Sequence[SharingResult]", workload: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Sharing: KV blocks saved, %", title_justify="left")
    widths = list(dict.fromkeys(one.width for one in saved))
    table.add_column("decoding")
    for width in widths:
        table.add_column(str(width), justify="right")
    table.add_column("paper (2 / 4 / 6)")
    for decoding in dict.fromkeys(one.decoding for one in saved):
        cells = [f"{one.saved_percent:.1f}" for one in saved if one.decoding == decoding]
        table.add_row(decoding, *cells, PAPER_SAVINGS.get((workload, decoding), "-"))
    return table


def _line(text: str, style: str = "") -> "RenderableType":
    from rich.text import Text

    return Text(text, style)
