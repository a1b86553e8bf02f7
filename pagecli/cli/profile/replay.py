"""The replay part of a profile: the workload under every memory policy beside the paper's results; block sizes; sharing."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pagecli.cli.profile.options import ProfileOptions
from pagecli.cli.profile.replay_cases import replay_cases
from pagecli.cli.profile.report import Section
from pagecli.cli.profile.tables import Column, FittingTable
from pagecli.profiler.plan.plan_json import policy_json
from pagecli.profiler.recording.records import PolicyResult
from pagecli.profiler.replay.papers import is_papers_setting, system_for
from pagecli.profiler.replay.replay import MOST_REPLAYED, SHARING_CASE, replay, sample_of, sample_text
from pagecli.profiler.replay.replay_clock import ReplayCase, ReplaySettings
from pagecli.profiler.workloads.workloads import Workload, built_in

if TYPE_CHECKING:
    from rich.console import RenderableType

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


def replay_section(job: "PlannedJob", options: ProfileOptions) -> Section:
    """Every policy on the planned cache; relative_throughput is output tokens/s over those of paged + continuous."""
    from pagecli.profiler.plan.estimate import step_time_of

    compare = options.compare or options.html is not None or options.plots is not None
    cases = replay_cases(options.policies, job.workload, compare)
    if not job.plan.fits:
        compares = options.all or compare or options.policies is not None
        return Section({"replay": []}, [_line("No replay: there is no KV cache.", "dim")] if compares else [])
    settings = settings_of(job.plan)
    results = replay(sample_of(job.workload), settings, step_time_of(job.plan), cases)
    paged = _speed_of_paged(results)
    rows = [policy_json(r) | {"relative_throughput": r.output_tokens_per_second / paged if paged else None} for r in results]
    if options.policies is None and len(results) == 1:
        return Section({"replay": rows}, [_paging_line(results[0], job)] if options.all else [], results)
    shown: list[RenderableType] = [
        _line(""),
        replay_table(results, job.workload, _in_papers_setting(job.plan) and _compares(results)),
        *_notes(results, job, settings),
    ]
    return Section({"replay": rows}, shown, results)


def _paging_line(result: PolicyResult, job: "PlannedJob") -> "RenderableType":
    """The replay of paging alone, in one line."""
    num_requests = len(job.workload.requests)
    sampled = f" of {num_requests:,} ({sample_text(job.workload)})" if num_requests > MOST_REPLAYED else ""
    refused = int(result.details["num_refused"])
    left_out = f", {refused:,} could never fit and are left out" if refused else ""
    return _line(
        f"Replay of {result.num_requests:,}{sampled} requests: mean batch {result.mean_batch:.1f}, tokens in "
        f"{result.shares.token_states:.1f}% of the KV slots, {result.num_preemptions:,} preemptions{left_out}. --compare adds "
        "the memory policies of other systems."
    )


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


def _in_papers_setting(plan: "Plan") -> bool:
    return is_papers_setting(plan.settings.model, plan.settings.device.name, plan.settings.num_devices)


def _compares(results: Sequence[PolicyResult]) -> bool:
    """Whether other policies than paging are among them."""
    return any(r.policy != "paged" for r in results)


def _speed_of_paged(results: Sequence[PolicyResult]) -> float | None:
    """Output tokens/s of paged + continuous; None if it was not among those asked for."""
    paged = [r for r in results if r.policy == "paged" and r.batching == "continuous" and not r.prefix_caching]
    return paged[0].output_tokens_per_second if paged else None


def _ratio(value: float, base: float) -> float:
    return value / base if base > 0 else 0.0


SHARES = ("token_states", "reservation", "internal_fragmentation", "external_fragmentation", "free")
SHARE_COLUMNS = ("token\nstates", "reserved", "internal\nfragm.", "external\nfragm.", "free")


def replay_table(results: Sequence[PolicyResult], workload: Workload, beside_paper: bool) -> FittingTable:
    """A row a policy: shares of KV memory, mean batch, throughput over paged; `beside_paper`: the paper's results below.

    The shares of its figure 2 are of texts as long as ShareGPT's (20.4 % of 15,728 slots in 7 sequences: 458 tokens each), so
    they are left out beside Alpaca's, whose mean batches are in figure 13.
    """
    paged = _speed_of_paged(results)
    rows: list[Sequence[str]] = []
    for r in results:
        shares = [f"{getattr(r.shares, name):.1f}" for name in SHARES]
        speed = "-" if not paged else f"{r.output_tokens_per_second / paged:.2f}x"
        rows.append((_name_of(r), *shares, f"{r.mean_batch:.1f}", speed))
        paper = system_for(r.policy, r.batching) if beside_paper and not r.prefix_caching else None
        if paper is not None:
            known = [None if workload.name == "alpaca" else getattr(paper, name, None) for name in SHARES]
            batch = paper.mean_batch.get(workload.name)
            cells = ["" if value is None else f"{value:g}" for value in (*known, batch)]
            rows.append((f"  paper: {paper.name}", *cells, ""))
    columns = [Column("policy", "name"), *map(Column, SHARE_COLUMNS), Column("mean\nbatch"), Column("speed")]
    return FittingTable(columns, rows, title="Replay: where KV slots went, % of all")


def _name_of(result: PolicyResult) -> str:
    return f"{result.policy}, {result.batching}" + (", prefixes shared" if result.prefix_caching else "")


def _notes(results: Sequence[PolicyResult], job: "PlannedJob", settings: ReplaySettings) -> "list[RenderableType]":
    rate = job.workload.requests_per_second
    arrivals = f"{rate:g} requests/s" if rate else "all requests there from the start"
    if not rate and any(r.arrival_seconds for r in job.workload.requests):
        arrivals = "arriving as the file says"
    num_requests = len(job.workload.requests)
    of_all = f" of {num_requests:,} ({sample_text(job.workload)})" if num_requests > MOST_REPLAYED else ""
    lines = [
        f"{results[0].num_requests:,}{of_all} requests, {arrivals}; {settings.num_slots:,} slots; "
        f"blocks of {settings.block_size}. Means over steps of the steady part; step times are the roofline's. "
        "Speed: output tokens/s over those of paged.",
    ]
    if _compares(results):
        lines.append(
            "reserve-*: contiguous, buddy allocator, for the longest sequence "
            f"({settings.reserved_len:,}), the output rounded up to a power of two, or the true length."
        )
    if _in_papers_setting(job.plan) and _compares(results):
        lines.append(
            "Paper: SOSP 2023, figures 2 (external fragmentation and others in one) and 13; OPT-13B on an A100-40GB, "
            "ShareGPT at 2 and Alpaca at 30 requests/s."
        )
    refused = [(r, int(r.details["num_refused"])) for r in results if r.details["num_refused"]]
    lines += [f"{r.policy}, {r.batching}: {count:,} requests could never fit and are left out." for r, count in refused]
    return [_line(line, "dim") for line in lines]


def block_sizes_section(job: "PlannedJob", options: ProfileOptions) -> Section:
    """--block-sizes: empty slots in last blocks, by arithmetic, of the workload and the built-in ones; replayed as well."""
    from pagecli.profiler.plan.estimate import step_time_of
    from pagecli.profiler.replay.last_block_waste import parse_block_sizes, waste_by_block_size

    sizes = parse_block_sizes(options.block_sizes or "")
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
            results += replay(sample_of(job.workload), settings, step_time_of(job.plan), [ReplayCase("paged")])
    fields = {"block_sizes": {"last_block_waste": [asdict(w) for w in wastes], "replay": [policy_json(r) for r in results]}}
    return Section(fields, [_line(""), _block_sizes_table(sizes, wastes, results, job.workload.name)], results)


def _block_sizes_table(
    sizes: Sequence[int], wastes: "Sequence[BlockSizeWaste]", results: Sequence[PolicyResult], replayed: str
) -> FittingTable:
    names = list(dict.fromkeys(w.workload for w in wastes))
    columns = [Column("block size", "name"), *map(Column, names)]
    if results:
        columns += [Column(f"token states,\n{replayed} replayed"), Column("mean\nbatch")]
    share = {(w.workload, w.block_size): w.wasted_percent for w in wastes}
    rows = []
    for at, size in enumerate(sizes):
        replays = [f"{results[at].shares.token_states:.1f}", f"{results[at].mean_batch:.1f}"] if results else []
        rows.append((str(size), *(f"{share[name, size]:.2f}" for name in names), *replays))
    return FittingTable(columns, rows, title="Block sizes: empty slots, % of those held")


def sharing_section(job: "PlannedJob", options: ProfileOptions) -> Section:
    """--sharing: blocks saved by samples and beams of one prompt, and by prompts that begin alike."""
    from pagecli.profiler.plan.estimate import step_time_of
    from pagecli.profiler.replay.sharing import sharing

    if not job.plan.fits:
        return Section({"sharing": None}, [_line("No sharing to show: there is no KV cache.", "dim")])
    timer = step_time_of(job.plan)
    saved = sharing(job.workload, settings_of(job.plan), timer)
    fields: dict[str, Any] = {"decoding": [asdict(one) for one in saved], "prefixes": None}
    shown: list[RenderableType] = [_line(""), _sharing_table(saved, job.workload.name, _in_papers_setting(job.plan))]
    if job.workload.prefix_block_size:
        sample = sample_of(job.workload)
        plain, shared = replay(sample, settings_of(job.plan), timer, [ReplayCase("paged"), SHARING_CASE])
        prompts = sum(r.prompt_tokens for r in sample.requests)
        cached = 100 * shared.details["prefill_tokens_cached"] / prompts
        gain = _ratio(shared.output_tokens_per_second, plain.output_tokens_per_second)
        fields["prefixes"] = {"cached_percent": cached, "throughput_gain": gain, "mean_batch_gain": _gain(shared, plain)}
        text = f"Prefixes: {cached:.1f} % of prompt tokens found in the cache, {gain:.2f} times the throughput of going without"
        papers = " (paper, OPT-13B: 1.67x with 80 shared tokens, 3.58x with 341, over Orca Oracle)"
        shown.append(_line(f"{text}{papers if _in_papers_setting(job.plan) else ''}."))
    shown.append(_line("Beams: candidates are drawn at random; a model that is surer of its text shares more.", "dim"))
    return Section({"sharing": fields}, shown)


def _gain(shared: PolicyResult, plain: PolicyResult) -> float:
    return _ratio(shared.mean_batch, plain.mean_batch)


def _sharing_table(saved: "Sequence[SharingResult]", workload: str, beside_paper: bool) -> FittingTable:
    widths = list(dict.fromkeys(one.width for one in saved))
    columns = [Column("decoding", "name"), *(Column(str(width)) for width in widths)]
    rows = []
    for decoding in dict.fromkeys(one.decoding for one in saved):
        rows.append([decoding, *(f"{one.saved_percent:.1f}" for one in saved if one.decoding == decoding)])
    if beside_paper:
        columns.append(Column("paper (2 / 4 / 6)", "text"))
        for row in rows:
            row.append(PAPER_SAVINGS.get((workload, row[0]), "-"))
    return FittingTable(columns, rows, title="Sharing: KV blocks saved, %, by sequences of a request")


def _line(text: str, style: str = "") -> "RenderableType":
    from rich.text import Text

    return Text(text, style)
