"""Prometheus metrics, made anew for each scrape from what the mounts say.

The counters are those of the mounts' own processes: they begin at 0 again when a process is replaced, as Prometheus
expects.
"""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ckptfs.fs.counters import KINDS

CONTENT_TYPE = CONTENT_TYPE_LATEST

_COUNTERS = {
    "saves": ("ckptfs_saves", "Versions captured."),
    "save_s": ("ckptfs_capture_seconds", "Time that touches took to capture, in all."),
    "stall_s": ("ckptfs_stall_seconds", "Of that, time in which no other operation could go on."),
    "captured_bytes": ("ckptfs_captured_bytes", "Size of the captured versions, all files of each."),
    "changed_bytes": ("ckptfs_changed_bytes", "Size of the files in them that had changed."),
    "durable_versions": ("ckptfs_durable_versions", "Versions that became durable."),
    "durable_bytes": ("ckptfs_saved_bytes", "Size of the versions that became durable, all files of each."),
    "new_bytes": ("ckptfs_new_bytes", "Content among that which the version before had not, uncompressed."),
    "uploaded_bytes": ("ckptfs_uploaded_bytes", "Bytes put into the store for that."),
    "fetched_bytes": ("ckptfs_restored_bytes", "Content fetched from the store, decompressed."),
}
_LEASE_STATES = ("held", "unrenewed", "lost")


def scrape(report: dict[str, Any]) -> bytes:
    """Return the metrics of a daemon's report (report.py) in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(lambda: _families(report)))
    return generate_latest(registry)


class _Collector:
    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families()

    def describe(self) -> Iterator[Metric]:
        return iter(())


def _families(report: dict[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "ckptfsd_configuration_valid", "1 if the files as they are have been taken.", not report["config_error"]
    )
    yield CounterMetricFamily("ckptfsd_reloads", "Configurations taken since the daemon began.", report["reloads"])
    yield from _of_supervision(report["mounts"])
    rows = [(mount["name"], mount["status"]) for mount in report["mounts"] if mount["status"] is not None]
    yield from _of_counters(rows)
    yield from _of_now(rows)


def _of_supervision(mounts: list[dict[str, Any]]) -> Iterator[Metric]:
    up = GaugeMetricFamily("ckptfs_up", "1 if the mount is up and answers.", labels=("mount",))
    starts = CounterMetricFamily("ckptfs_keeper_starts", "How often a keeper was started.", labels=("mount",))
    for mount in mounts:
        up.add_metric([mount["name"]], mount["state"] == "mounted")
        starts.add_metric([mount["name"]], mount["keeper_starts"])
    yield from (up, starts)


def _of_counters(rows: list[tuple[str, dict[str, Any]]]) -> Iterator[Metric]:
    for key, (name, text) in _COUNTERS.items():
        family = CounterMetricFamily(name, text, labels=("mount",))
        for mount, status in rows:
            family.add_metric([mount], status.get("counters", {}).get(key, 0))
        yield family
    errors = CounterMetricFamily("ckptfs_errors", "Errors, by kind.", labels=("mount", "kind"))
    for mount, status in rows:
        # all from the beginning: what appears with its first error has no increase that could raise an alarm
        for kind, number in {**dict.fromkeys(KINDS, 0), **status.get("counters", {}).get("errors", {})}.items():
            errors.add_metric([mount, kind], number)
    yield errors


def _of_now(rows: list[tuple[str, dict[str, Any]]]) -> Iterator[Metric]:
    def gauge(name: str, text: str, value: Callable[[dict[str, Any]], float | None]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=("mount",))
        for mount, status in rows:
            number = value(status)
            if number is not None:
                family.add_metric([mount], number)
        return family

    yield gauge("ckptfs_version", "Newest version.", lambda status: status["version"])
    yield gauge(
        "ckptfs_pending_versions", "Captured versions that are not durable.", lambda status: len(status["pending"])
    )
    yield gauge("ckptfs_pending_bytes", "Local disk that they keep.", lambda status: status.get("pending_bytes", 0))
    yield gauge(
        "ckptfs_pending_age_seconds", "Age of the oldest of them.", lambda status: status.get("pending_age_s") or 0
    )
    yield gauge(
        "ckptfs_blocked_seconds",
        "For how long a touch has been waiting for room.",
        lambda status: status.get("blocked_s") or 0,
    )
    yield gauge(
        "ckptfs_not_fetched_bytes",
        "Of the live tree, not on local disk.",
        lambda status: status.get("not_fetched_bytes"),
    )
    yield gauge(
        "ckptfs_dedup_ratio",
        "Saved bytes for each new one.",
        lambda status: _ratio(status, "durable_bytes", "new_bytes"),
    )
    yield gauge(
        "ckptfs_compression_ratio",
        "New bytes for each uploaded one.",
        lambda status: _ratio(status, "new_bytes", "uploaded_bytes"),
    )
    yield gauge(
        "ckptfs_lease_renewed_seconds_ago",
        "Age of the lease.",
        lambda status: status.get("lease", {}).get("renewed_s_ago"),
    )
    lease = GaugeMetricFamily("ckptfs_lease_state", "1 for the state that the lease is in.", labels=("mount", "state"))
    for mount, status in rows:
        if "lease" in status:
            for state in _LEASE_STATES:
                lease.add_metric([mount, state], status["lease"]["state"] == state)
    yield lease


def _ratio(status: dict[str, Any], above: str, below: str) -> float | None:
    counters = status.get("counters", {})
    return counters[above] / counters[below] if counters.get(below) else None
