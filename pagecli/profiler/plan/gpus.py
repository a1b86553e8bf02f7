"""A catalogue of GPUs that a model may be planned for: memory, bandwidth, FLOP/s and link of each.

memory_bytes is what the driver lets programs have (CUDA's `total_memory`; some 0.2 GiB more or less with the driver's
version), not the number in the name. Bandwidth and FLOP/s are the data sheets' (dense; tensor cores for 16 bits, plain
for float32; T4 and V100 have tensor cores for float16 only). `link` is one direction of NVLink, or of PCIe without it.
"""

import difflib
from dataclasses import dataclass, replace

from pagecli.errors import UsageError

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, or one machine's CPUs and RAM. Bandwidths in bytes/s."""

    name: str
    title: str
    memory_bytes: int
    bandwidth: float
    half_flops: float  # FLOP/s on bfloat16 or float16
    single_flops: float  # FLOP/s on float32
    link: float  # to another device, one direction
    kind: str = "gpu"  # or "host"
    source: str = "data sheet"
    is_reached: bool = False  # the rates are those that operations reach, not a data sheet's

    def flops(self, dtype_bytes: float) -> float:
        """FLOP/s of matrix products with weights of that size; smaller ones than 2 bytes are multiplied as 2."""
        return self.half_flops if dtype_bytes <= 2 else self.single_flops


# name: (title, GiB of memory, TB/s, 16-bit TFLOP/s, float32 TFLOP/s, GB/s of link)
_CATALOGUE: dict[str, tuple[str, float, float, float, float, float]] = {
    "a100-40gb": ("NVIDIA A100 40GB (SXM)", 39.586, 1.555, 312, 19.5, 300),
    "a100-80gb": ("NVIDIA A100 80GB (SXM)", 79.32, 2.039, 312, 19.5, 300),
    "a10g": ("NVIDIA A10G", 22.19, 0.600, 70, 31.5, 32),
    "a10": ("NVIDIA A10", 22.05, 0.600, 125, 31.2, 32),
    "a40": ("NVIDIA A40", 44.43, 0.696, 149.7, 37.4, 32),
    "rtx-a6000": ("NVIDIA RTX A6000", 47.54, 0.768, 154.8, 38.7, 32),
    "rtx-3090": ("NVIDIA GeForce RTX 3090", 23.69, 0.936, 71, 35.6, 32),
    "rtx-4090": ("NVIDIA GeForce RTX 4090", 23.65, 1.008, 165.2, 82.6, 32),
    "rtx-5090": ("NVIDIA GeForce RTX 5090", 31.36, 1.792, 209.5, 104.8, 64),
    "h100": ("NVIDIA H100 80GB (SXM)", 79.11, 3.35, 989, 67, 450),
    "h100-pcie": ("NVIDIA H100 80GB (PCIe)", 79.11, 2.0, 756, 51, 64),
    "h200": ("NVIDIA H200 141GB (SXM)", 139.8, 4.8, 989, 67, 450),
    "b200": ("NVIDIA B200 180GB (SXM)", 178.35, 8.0, 2250, 75, 900),
    "l4": ("NVIDIA L4", 22.17, 0.300, 121, 30.3, 32),
    "l40s": ("NVIDIA L40S", 44.52, 0.864, 362, 91.6, 32),
    "t4": ("NVIDIA T4", 14.75, 0.320, 65, 8.1, 16),
    "v100": ("NVIDIA V100 16GB (SXM)", 15.78, 0.900, 125, 15.7, 150),
    "v100-32gb": ("NVIDIA V100 32GB (SXM)", 31.74, 0.900, 125, 15.7, 150),
}
# Other ways to write a name.
_ALIASES = {
    "h100-80gb": "h100",
    "h100-sxm": "h100",
    "h200-141gb": "h200",
    "v100-16gb": "v100",
    "a6000": "rtx-a6000",
    "3090": "rtx-3090",
    "4090": "rtx-4090",
    "5090": "rtx-5090",
}


def gpu_names() -> list[str]:
    return list(_CATALOGUE)


def find_gpu(name: str) -> Device:
    """The GPU of that name in the catalogue. Raises UsageError naming near ones."""
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    key = _ALIASES.get(key, key)
    if key not in _CATALOGUE:
        close = [known for known in _CATALOGUE if known.startswith(key)] if key else []
        close = close or difflib.get_close_matches(key, _CATALOGUE, n=3, cutoff=0.5)
        known = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(_CATALOGUE)}"
        raise UsageError(f"no GPU {name!r}", f"{known} Or auto: what this machine has")
    title, gib, terabytes, half, single, link = _CATALOGUE[key]
    return Device(key, title, int(gib * GIB), round(terabytes * 1e12), half * 1e12, single * 1e12, link * 1e9)


def match_gpu(driver_name: str, memory_bytes: int) -> Device | None:
    """The catalogue's entry for a GPU by its driver's name, with the memory the driver reports; None if it has none."""
    words = driver_name.lower().replace("_", " ").replace("-", " ").split()
    found = [find_gpu(name) for name in _CATALOGUE if _model_word(name) in words or "".join(_model_words(name)) in words]
    if not found:
        return None
    same_kind = [device for device in found if ("pcie" in device.name) == ("pcie" in words)] or found
    nearest = min(same_kind, key=lambda device: abs(device.memory_bytes - memory_bytes))
    return replace(nearest, title=driver_name, memory_bytes=memory_bytes, source="data sheet; memory by the driver")


def _model_words(name: str) -> list[str]:
    """The words of a catalogue name that the driver's name has too: rtx-a6000 -> a6000, a100-40gb -> a100."""
    return [word for word in name.split("-") if word not in ("rtx", "pcie") and not word.endswith("gb")]


def _model_word(name: str) -> str:
    return _model_words(name)[0]
