"""Every story through the faulty proxy at several rates: `python -m tests.faults [--rates 5,15,30] [--seeds 2]`.

Prints how many faults of each kind were injected. Anything lost, half visible or wrong ends it with a traceback.
"""

import argparse
import os
import secrets
import tempfile
import time
from collections import Counter
from pathlib import Path

from demo.seaweedfs import SeaweedFS
from tests.conftest import BUCKET
from tests.faults.proxy import Fault, FaultyProxy, Plan
from tests.faults.stories import STORIES
from tests.mounting import Mounts

_DEADLINE_S = 600.0


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rates", default="5,15,30", help="percent of requests that meet a fault")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each story at each rate")
    parser.add_argument("--story", choices=sorted(STORIES), help="only this one")
    arguments = parser.parse_args()
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    injected: Counter[Fault] = Counter()
    requests = told = 0
    with SeaweedFS() as server:
        os.environ.update(server.env)
        server.create_bucket(BUCKET)
        for percent in map(int, arguments.rates.split(",")):
            for seed in range(1, arguments.seeds + 1):
                for name in STORIES if arguments.story is None else [arguments.story]:
                    proxy = _tell(name, server.endpoint, Plan(rate=percent / 100, seed=seed))
                    injected += proxy.injected
                    requests += proxy.requests
                    told += 1
    for fault in Fault:
        print(f"{injected[fault]:8d}  {fault.value}")
    print(f"{injected.total():8d}  faults in {requests} requests of {told} stories: 0 lost, 0 half visible, 0 wrong")


def _tell(name: str, endpoint: str, plan: Plan) -> FaultyProxy:
    """Tell one story; return the proxy, with its counts."""
    started_s = time.monotonic()
    with FaultyProxy(endpoint, plan) as proxy, tempfile.TemporaryDirectory() as directory:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        mounts = Mounts(Path(directory), _DEADLINE_S)
        try:
            STORIES[name](mounts, f"s3://{BUCKET}/{secrets.token_hex(8)}", plan.seed)
        finally:
            mounts.close()
    counts = f"{proxy.injected.total()} faults in {proxy.requests} requests"
    print(f"{name} at {plan.rate:.0%}, seed {plan.seed}: {counts}, {time.monotonic() - started_s:.0f} s", flush=True)
    return proxy


if __name__ == "__main__":
    main()
