"""One save over time: the touch, the processors that are busy, each object on its way, the commit."""

import time
from pathlib import Path
from typing import Any

from bench.durable.place import Place
from bench.processes import ProcessorWatch
from bench.product import mounted
from bench.sequences import Sequence


def record_save(place: Place, sequence: Sequence) -> dict[str, Any]:
    """Save the version after the first through the counting relay; return when what happened (s since the touch)."""
    with place.bucket("ours") as bucket, place.directory("timeline") as root:
        with mounted(root, f"s3://{bucket}/store", place.counted_env) as mount:
            sequence.write(0, mount.run)
            mount.save()
            size = sequence.write(1, mount.run)
            with ProcessorWatch(mount.keeper) as watch, place.proxy.recording() as recording:
                time.sleep(0.2)
                began_s = time.time()
                stall_s, durable_s = mount.save()
                time.sleep(0.2)
            log = mount.log
    objects = [
        {
            "kind": "commit" if "/c/" in request.path else "pack" if "/p/" in request.path else "manifest",
            "bytes": request.body_bytes,
            "began_s": request.began_s - began_s,
            "ended_s": request.ended_s - began_s,
        }
        for request in recording.counted
        if request.method == "PUT"
    ]
    return {
        "sequence": sequence.name,
        "bytes": size,
        "stall_s": stall_s,
        "durable_s": durable_s,
        "objects": objects,
        "processor": [(at - began_s, used_s) for at, used_s in watch.samples],
        "log": log.splitlines()[-4:],
    }


def draw_save(save: dict[str, Any], path: Path) -> None:
    """Draw it (SVG)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (busy, rows) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained", height_ratios=[1, 2])
    samples = save["processor"]
    window = 5
    times = [samples[i + window][0] for i in range(len(samples) - window)]
    used = [
        (samples[i + window][1] - samples[i][1]) / (samples[i + window][0] - samples[i][0]) for i in range(len(times))
    ]
    busy.fill_between(times, used, step="pre", color="tab:orange", alpha=0.7)
    busy.set_ylabel("processors\n(encode, hash, send)")
    rows.barh(0, save["stall_s"], color="tab:red")
    for row, sent in enumerate(save["objects"], 1):
        color = {"pack": "tab:blue", "manifest": "tab:purple", "commit": "tab:green"}[sent["kind"]]
        rows.barh(row, sent["ended_s"] - sent["began_s"], left=sent["began_s"], color=color)
    labels = [f"touch: {1000 * save['stall_s']:.1f} ms"]
    labels += [f"PUT {sent['kind']}, {sent['bytes'] / 1e6:.1f} MB" for sent in save["objects"]]
    rows.set_yticks(range(len(labels)), labels)
    rows.invert_yaxis()
    rows.axvline(save["durable_s"], color="tab:green", linestyle="--")
    rows.set_xlabel("s since the touch (dashed: durable)")
    busy.set_title(f"One save: {save['sequence']}, {save['bytes'] / 1e6:.0f} MB, through the relay that records it")
    figure.savefig(path)
    plt.close(figure)
