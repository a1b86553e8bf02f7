"""Checks of the installation: versions, caches, disk space, settings."""

import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pagecli
from pagecli.cli.doctor.check import Check, Health, free_bytes, gibibytes, is_writable
from pagecli.cli.settings import apply_settings, ignored_files, options_of, read_settings, unknown_variables, value_in_effect
from pagecli.errors import PagecliError

LITTLE_SPACE, NO_SPACE = 2 << 30, 16 << 20
MAX_WALK_SECONDS = 2.0


def versions() -> Check:
    """Every package that pagecli asks for is there, in a version it has been made for."""
    from packaging.requirements import Requirement

    found = {"pagecli": pagecli.__version__, "python": platform.python_version()}
    missing, wrong = [], []
    for line in importlib.metadata.requires("pagecli") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(str(requirement))
            continue
        found[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} (wanted {requirement.specifier})")
    shown = ", ".join(f"{name} {found[name]}" for name in ("pagecli", "python", "torch", "transformers") if name in found)
    if missing:
        return Check("versions", Health.fail, f"{shown}; missing: {', '.join(missing)}", _pip(missing), {"versions": found})
    if wrong:
        hint = "jobs may fail: install pagecli into an environment of its own"
        return Check("versions", Health.warn, f"{shown}; not tried with: {', '.join(wrong)}", hint, {"versions": found})
    return Check("versions", Health.ok, shown, None, {"versions": found})


def model_cache() -> Check:
    """Where downloaded models are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    return _directory(
        "model cache",
        Path(HF_HUB_CACHE),
        "point HF_HOME to a directory you can write to",
        {"offline": bool(HF_HUB_OFFLINE), "has_token": bool(os.environ.get("HF_TOKEN"))},
        needed=not HF_HUB_OFFLINE,
    )


def state() -> Check:
    """Where jobs with remote outputs keep what they have finished."""
    from pagecli.core.file_targets import state_directory

    return _directory("state", state_directory(), "point XDG_STATE_HOME to a directory you can write to", {}, needed=True)


def _directory(name: str, path: Path, hint: str, details: dict[str, Any], needed: bool) -> Check:
    size, is_whole = size_of(path)
    writable = is_writable(path)
    details = {"path": str(path), "size_bytes": size, "size_is_whole": is_whole, "writable": writable, **details}
    taken = "not there yet" if not path.exists() else f"{'' if is_whole else 'more than '}{gibibytes(size)}"
    found = f"{path}, {taken}"
    if not writable and needed:
        return Check(name, Health.warn, f"{found}, not writable", hint, details)
    return Check(name, Health.ok, found, None, details)


def disk(name: str, path: Path) -> Check:
    """Free space where outputs, or temporary files, are written."""
    free, writable = free_bytes(path), is_writable(path)
    details = {"path": str(path), "free_bytes": free, "writable": writable}
    found = f"{path}, {gibibytes(free)} free"
    if not writable:
        return Check(name, Health.warn, f"{found}, not writable", "write outputs to a directory of your own", details)
    if free < NO_SPACE:
        return Check(name, Health.fail, found, "free some space", details)
    if free < LITTLE_SPACE:
        return Check(
            name, Health.warn, found, "long jobs need more: an output and its journal are there at the same time", details
        )
    return Check(name, Health.ok, found, None, details)


def working_directory() -> Check:
    return disk("disk", Path.cwd())


def temporary_directory() -> Check:
    return disk("temporary", Path(tempfile.gettempdir()))


def configuration(commands: Mapping[str, Any], root: Any) -> Check:
    """The settings of every command are known and of the right type."""
    try:
        origins = {setting.origin for setting in read_settings()}
        for name, command in commands.items():
            context = command.context_class(command, info_name=name, parent=root, **command.context_settings)
            apply_settings(context, commands, command)
            values = [value_in_effect(context, parameter) for parameter in options_of(command).values()]
            origins |= {origin for _, _, origin in values if origin is not None}
    except PagecliError as error:
        return Check("settings", Health.fail, error.message, error.hint)
    unknown = unknown_variables(commands)
    if unknown:
        return Check("settings", Health.warn, "; ".join(unknown), "correct or unset them")
    ignored = ignored_files()
    if ignored:
        return Check("settings", Health.warn, "; ".join(ignored), "make it your own, or remove it")
    found = f"{len(origins)} given; see pagecli config" if origins else "all defaults"
    return Check("settings", Health.ok, found, None, {"places": sorted(origins)})


def size_of(path: Path, seconds: float = MAX_WALK_SECONDS) -> tuple[int, bool]:
    """(bytes on the disk below `path`, whether all was counted in time); links are not followed, hard links counted once."""
    deadline, total, seen = time.monotonic() + seconds, 0, set()
    for folder, _, names in os.walk(path):
        if time.monotonic() > deadline:
            return total, False
        for name in names:
            try:
                found = os.stat(os.path.join(folder, name), follow_symlinks=False)
            except OSError:
                continue
            if found.st_nlink > 1:
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            total += found.st_blocks * 512
    return total, True


def _pip(requirements: list[str]) -> str:
    return "pip install " + " ".join(f"'{requirement}'" for requirement in requirements)
