"""What may change around a job, between its runs or in the middle of one, and is put back after it."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cases import INPUT, MODEL, MODELS

WEIGHTS = f"{MODELS[0]}/model.safetensors"
TEMPLATE = f"{MODELS[0]}/chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Change:
    """`make(folder)` changes files of a job; `restore(folder, as_it_was)` puts them back from a folder that has them."""

    make: Callable[[Path], None] = lambda folder: None
    restore: Callable[[Path, Path], None] = lambda folder, as_it_was: None
    environment: Mapping[str, str] = field(default_factory=dict)  # of a run in the changed surroundings
    leaves_traces: bool = False  # what is put back may be taken for another file
    allows_no_job: bool = False  # nothing can be run while it lasts


def other_input(content: bytes) -> bytes:
    """The same number of bytes and rows; other prompts in the second half."""
    half = len(content) // 2
    return content[:half] + content[half:].replace(b"number 1", b"number 7").replace(b"word w", b"word W")


def _rewrite(path: Path, content: bytes) -> None:
    """In the same file, with the same times."""
    times = path.stat()
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _rewrite_input(folder: Path) -> None:
    path = folder / INPUT
    with path.open("r+b") as file:
        file.write(other_input(path.read_bytes()))


def _truncate_input(folder: Path) -> None:
    content = (folder / INPUT).read_bytes()
    os.truncate(folder / INPUT, content.rindex(b"\n", 0, len(content) * 2 // 3) + 1)


def _lengthen_input(folder: Path) -> None:
    content = (folder / INPUT).read_bytes()
    with (folder / INPUT).open("ab") as file:
        file.write(content[: content.index(b"\n") + 1])


def _replace_input(folder: Path) -> None:
    new = folder / "new"
    new.write_bytes(other_input((folder / INPUT).read_bytes()))
    new.replace(folder / INPUT)


def _restore_input(folder: Path, as_it_was: Path) -> None:
    """Another file with the same content and date, as one that is downloaded again."""
    shutil.copy2(as_it_was / INPUT, folder / "new")
    (folder / "new").replace(folder / INPUT)


def _link_model(folder: Path, name: str) -> None:
    new = folder / "new"
    new.symlink_to(name)
    new.replace(folder / MODEL)


def _rewrite_file(name: str) -> Callable[[Path, Path], None]:
    return lambda folder, as_it_was: _rewrite(folder / name, (as_it_was / name).read_bytes())


def _rewrite_template(folder: Path) -> None:
    _rewrite(folder / TEMPLATE, (folder / TEMPLATE).read_bytes().replace(b"Today is", b"It is"))


CHANGES = {
    "input rewritten": Change(_rewrite_input, _restore_input),
    "input truncated": Change(_truncate_input, _restore_input),
    "input longer": Change(_lengthen_input, _restore_input),
    "input replaced": Change(_replace_input, _restore_input),
    "input removed": Change(lambda folder: (folder / INPUT).unlink(), _restore_input, allows_no_job=True),
    "other weights": Change(
        lambda folder: _link_model(folder, MODELS[1]), lambda folder, as_it_was: _link_model(folder, MODELS[0])
    ),
    "weights rewritten": Change(
        lambda folder: _rewrite(folder / WEIGHTS, (folder / MODELS[1] / "model.safetensors").read_bytes()),
        _rewrite_file(WEIGHTS),
        leaves_traces=True,
    ),
    "template rewritten": Change(_rewrite_template, _rewrite_file(TEMPLATE)),
    "other instruction set": Change(environment={"PAGECLI_CPU_ISA": "generic"}),
}
