"""`python -m bench.metaflow`: stall, bytes and resuming of a flow beside metaflow-checkpoint.

Both sides run the same XGBoost flow, but for where `checkpoint` comes from, with Metaflow's data and the checkpoints on
one SeaweedFS; the other side has a virtual environment of its own. It fails at round 105 of 128 and is retried.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import boto3

from bench.figures import RESULTS, Figure, stamp, write_figures
from demo.seaweedfs import SeaweedFS

_FLOW = Path(__file__).parents[2] / "tests" / "frameworks" / "flows" / "xgboostflow.py"
_FAIL_AT = 105
_SIDES = {"ckptfs": "from ckptfs.metaflow import checkpoint", "metaflow-checkpoint": "from metaflow import checkpoint"}
# where each keeps its versions, below Metaflow's root
_KEPT_BELOW = {"ckptfs": "/ckptfs/", "metaflow-checkpoint": "/mf.checkpoints/"}
_CASES = {"the document's model": 0, "with 64 MB beside it that do not change": 64 << 20}


class Outcome(NamedTuple):
    """What one run of the flow showed."""

    stall_s: float
    """Median of its saves: writing the model, and saving."""
    saves: int
    failed_to_resumed_s: float
    stored_mb: float


def main() -> int:
    """Run both sides in turns, print a table, write JSON."""
    arguments = _arguments()
    figures = []
    with (
        tempfile.TemporaryDirectory(prefix="ckptfs-metaflow-") as scratch,
        SeaweedFS(Path(scratch, "server")) as server,
    ):
        for case, beside_bytes in _CASES.items():
            outcomes: dict[str, list[Outcome]] = {side: [] for side in _SIDES}
            for number in range(arguments.rounds):
                for side in list(_SIDES)[:: 1 if number % 2 else -1]:
                    python = Path(sys.executable) if side == "ckptfs" else arguments.peer
                    outcomes[side].append(_run(server, side, python, beside_bytes, Path(scratch)))
                    print(f"{case}: {side} {outcomes[side][-1]}", flush=True)
            figures += _figures(case, outcomes)
    for figure in figures:
        print(figure.line())
    write_figures(RESULTS / f"metaflow-{stamp()}.json", figures, {"rounds": arguments.rounds})
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.metaflow", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    # the flows run elsewhere; not resolved, for a virtual environment is known by where its Python's link is
    parser.add_argument(
        "--peer",
        type=lambda path: Path(path).absolute(),
        required=True,
        help="Python of an environment with metaflow-checkpoint",
    )
    return parser.parse_args()


def _run(server: SeaweedFS, side: str, python: Path, beside_bytes: int, scratch: Path) -> Outcome:
    """Run the flow once in a bucket of its own."""
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=scratch))
    bucket = f"flow-{directory.name[4:].lower().replace('_', 'x')}"
    server.create_bucket(bucket)
    text = (
        _FLOW.read_text().replace(_SIDES["ckptfs"], _SIDES[side]).replace("@timeout(seconds=15)", "@timeout(hours=1)")
    )
    text = text.replace("@retry\n", "@retry(times=1, minutes_between_retries=0)\n")
    (directory / "xgboostflow.py").write_text(text)
    shutil.copy(Path(__file__).with_name("checkpointing.py"), directory / "xgboost_checkpointer.py")
    own = {
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{bucket}/metaflow",
        "METAFLOW_S3_ENDPOINT_URL": server.endpoint,
        "METAFLOW_USER": "bench",
        "METAFLOW_HOME": str(directory / "home"),
        "CKPTFS_METAFLOW_DIR": str(directory / "mounts"),
        "EVENTS": str(directory / "events"),
        "FAIL_AT": str(_FAIL_AT),
        "BESIDE_BYTES": str(beside_bytes),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [python, "xgboostflow.py", "run"],
        cwd=directory,
        env=os.environ | server.env | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0 or "Training completed!" not in done.stdout:
        raise RuntimeError(f"the flow with {side} failed:\n{done.stdout[-4000:]}")
    events = [json.loads(line) for line in (directory / "events").read_text().splitlines()]
    outcome = _outcome(events, _stored_bytes(server, bucket, _KEPT_BELOW[side]))
    shutil.rmtree(directory, ignore_errors=True)
    return outcome


def _outcome(events: list[dict[str, Any]], stored_bytes: int) -> Outcome:
    times = {event["event"]: event["time"] for event in events}
    stalls = [event["took_s"] for event in events if event["event"] == "saved"]
    return Outcome(statistics.median(stalls), len(stalls), times["resumed"] - times["failed"], stored_bytes / 1e6)


def _stored_bytes(server: SeaweedFS, bucket: str, below: str) -> int:
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=server.env["AWS_SECRET_ACCESS_KEY"],
        region_name=server.env["AWS_DEFAULT_REGION"],
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    sizes = {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", ())}
    kept = [size for key, size in sizes.items() if below in f"/{key}"]
    if not kept:
        raise RuntimeError(f"no object is below {below}: {sorted(sizes)[:20]}")
    return sum(kept)


def _figures(case: str, outcomes: dict[str, list[Outcome]]) -> list[Figure]:
    peer = "metaflow-checkpoint"
    wanted = (
        ("stall of a save", "s", "stall_s"),
        ("failure to resumed", "s", "failed_to_resumed_s"),
        ("stored", "MB", "stored_mb"),
    )
    figures = []
    for name, unit, field in wanted:
        saves = outcomes["ckptfs"][0].saves
        figure = Figure(name=f"{name}, {case}", unit=unit, against=peer, target=1.0, note=f"{saves} saves")
        figure.ours = [getattr(outcome, field) for outcome in outcomes["ckptfs"]]
        figure.peers[peer] = [getattr(outcome, field) for outcome in outcomes[peer]]
        figures.append(figure)
    return figures


if __name__ == "__main__":
    sys.exit(main())
