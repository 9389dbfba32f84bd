"""Parts that write as frameworks do: torch.save and safetensors, there and back."""

import importlib.util
import os
import time
from pathlib import Path
from typing import Any

from bench.mount.results import Result, paired
from bench.mount.scene import Scene

_TENSORS = 16
# of issue 3: "torch.save + touch .save stalls at most 1.05 of torch.save to the native disk"
_SAVE_TARGET = 1.05


def measure_frameworks(scene: Scene, size_bytes: int, rounds: int) -> tuple[list[Result], list[str]]:
    """Return the results, and the names of what is not installed."""
    missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
    if "torch" in missing:
        return [], missing
    import torch

    count = size_bytes // 4 // _TENSORS
    state = {f"layer{number}": torch.rand(count) for number in range(_TENSORS)}
    work = f"{size_bytes >> 20} MiB"
    results = [
        paired(Result(name="torch.save", work=work), scene, rounds, lambda top: _torch_save(top, state)),
        paired(Result(name="torch.load", work=work), scene, rounds, _torch_load),
        _save_with_touch(scene, state, work, rounds),
    ]
    if "safetensors" not in missing:
        results += [
            paired(Result(name="safetensors save", work=work), scene, rounds, lambda top: _tensors_save(top, state)),
            paired(Result(name="safetensors load", work=work), scene, rounds, _tensors_load),
        ]
    for top in (scene.mount, scene.native):
        for path in top.glob("model*"):
            path.unlink()
    return results, missing


def _save_with_touch(scene: Scene, state: dict[str, Any], work: str, rounds: int) -> Result:
    def measure(top: Path) -> float:
        scene.sync()  # what the save before this one left to do is not this one's
        took_s = _torch_save(top, state)
        return took_s + (scene.save() if top == scene.mount else 0.0)

    result = Result(name="torch.save and touch .save", work=work, target=_SAVE_TARGET)
    return paired(result, scene, rounds, measure)


def _torch_save(top: Path, state: dict[str, Any]) -> float:
    import torch

    started_s = time.perf_counter()
    torch.save(state, top / "model.pt")
    took_s = time.perf_counter() - started_s
    _settle(top)
    return took_s


def _torch_load(top: Path) -> float:
    import torch

    started_s = time.perf_counter()
    torch.load(top / "model.pt", weights_only=True)
    return time.perf_counter() - started_s


def _tensors_save(top: Path, state: dict[str, Any]) -> float:
    from safetensors.torch import save_file

    started_s = time.perf_counter()
    save_file(state, top / "model.safetensors")
    took_s = time.perf_counter() - started_s
    _settle(top)
    return took_s


def _tensors_load(top: Path) -> float:
    from safetensors.torch import load_file

    started_s = time.perf_counter()
    load_file(top / "model.safetensors")
    return time.perf_counter() - started_s


def _settle(top: Path) -> None:
    """Write the pages of one round back before the next."""
    for path in top.glob("model*"):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
