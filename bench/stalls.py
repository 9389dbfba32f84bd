"""`python -m bench.stalls`: how long training stands still for a save, beside the framework's own save to local disk.

Each framework writes one model with its own writer into a directory of the filesystem that holds the mount's cache, and
into a mount with a touch of `.save` after it, in turns. What is not installed is said and left out.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ckptfs
from bench.figures import RESULTS, Figure, stamp, write_figures

Writer = Callable[[Path], Any]


def main() -> int:
    """Measure every framework that is installed."""
    parser = argparse.ArgumentParser(prog="python -m bench.stalls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    figures = []
    with tempfile.TemporaryDirectory(prefix="ckptfs-stalls-") as scratch:
        local, mountpoint = Path(scratch, "local"), Path(scratch, "mnt")
        local.mkdir()
        mountpoint.mkdir()
        _ckptfs("mount", f"file://{scratch}/store", mountpoint, "--cache-dir", Path(scratch, "cache"))
        try:
            for name, make in _FRAMEWORKS.items():
                try:
                    writer = make()
                except ImportError as error:
                    print(f"{name}: not measured, {error}")
                    continue
                figures.append(_measure(name, writer, local / name, mountpoint / name, rounds))
                print(figures[-1].line(), flush=True)
        finally:
            _ckptfs("umount", mountpoint)
    write_figures(RESULTS / f"stalls-{stamp()}.json", figures, {"rounds": rounds})
    return 0


def _measure(name: str, writer: Writer, local: Path, mounted: Path, rounds: int) -> Figure:
    """Save in turns; the first round, which makes the files, is not counted."""
    figure = Figure(name=name, unit="ms", against="local disk")
    local.mkdir()
    checkpoint = ckptfs.checkpoint(mounted)
    for number in range(rounds + 1):
        times = {}
        for side in ("ckptfs", "local disk")[:: 1 if number % 2 else -1]:
            began_s = time.perf_counter()
            writer(mounted if side == "ckptfs" else local)
            if side == "ckptfs":
                checkpoint.save({"step": number})
            times[side] = 1000 * (time.perf_counter() - began_s)
        if number:
            figure.add(times)
    size_bytes = sum(path.stat().st_size for path in local.rglob("*") if path.is_file())
    figure.note = f"{size_bytes / 1e6:.1f} MB"
    return figure


def _ckptfs(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "ckptfs", *arguments], stdout=subprocess.DEVNULL, check=True)


# a model of each, written as the integrations write it


def _data() -> tuple[Any, Any]:
    random = np.random.default_rng(7)
    features = random.normal(size=(2000, 64))
    return features, (features[:, 0] + features[:, 1] ** 2 > 1).astype(int)


def _xgboost() -> Writer:
    import xgboost

    features, labels = _data()
    model = xgboost.train({"max_depth": 6, "nthread": 1}, xgboost.DMatrix(features, labels), 200)
    return lambda directory: model.save_model(directory / "model.ubj")


def _lightgbm() -> Writer:
    import lightgbm

    model = lightgbm.train({"num_threads": 1, "verbosity": -1}, lightgbm.Dataset(*_data()), 200)
    return lambda directory: model.save_model(directory / "model.txt")


def _sklearn() -> Writer:
    import joblib
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((512, 512), max_iter=1).partial_fit(*_data(), classes=[0, 1])
    return lambda directory: joblib.dump((1, model), directory / "model.joblib")


def _torch() -> Writer:
    import torch

    state = {f"layer{number}": torch.randn(1024, 1024) for number in range(12)}
    return lambda directory: torch.save(state, directory / "state.pt")


def _lightning() -> Writer:
    import lightning.pytorch as lightning
    import torch

    class Layers(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(12)))

        def training_step(self, batch: Any, index: int) -> Any:
            return self.layers(batch).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", **quiet)
    trainer.fit(Layers(), torch.utils.data.DataLoader(torch.randn(8, 1024)))
    return lambda directory: trainer.save_checkpoint(directory / "last.ckpt")


def _transformers() -> Writer:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=2000, **sizes))
    return lambda directory: model.save_pretrained(directory / "checkpoint-1")


def _keras() -> Writer:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    layers = [keras.layers.Input((1024,)), *(keras.layers.Dense(1024) for _ in range(12))]
    model = keras.Sequential(layers)
    return lambda directory: model.save(directory / "model.keras")


def _orbax() -> Writer:
    import jax
    import orbax.checkpoint as ocp

    state = {f"layer{number}": jax.numpy.ones((1024, 1024)) for number in range(12)}
    writer = ocp.StandardCheckpointer()

    def write(directory: Path) -> None:
        writer.save(directory / "state", state, force=True)
        writer.wait_until_finished()

    return write


_FRAMEWORKS: dict[str, Callable[[], Writer]] = {
    "XGBoost": _xgboost,
    "LightGBM": _lightgbm,
    "scikit-learn": _sklearn,
    "PyTorch": _torch,
    "Lightning": _lightning,
    "Hugging Face": _transformers,
    "Keras": _keras,
    "Orbax": _orbax,
}


if __name__ == "__main__":
    sys.exit(main())
