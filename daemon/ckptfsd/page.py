"""The status page: one HTML document without scripts, of text from the report only."""

from html import escape
from typing import Any

from ckptfs.units import format_size

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#222;background:#fff}table{border-collapse:collapse}"
    "th,td{padding:.3rem .9rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}"
    ".bad{color:#b00020}.good{color:#0a6b2d}small{color:#666}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}"
    ".bad{color:#ff7b8a}.good{color:#6fd08c}small{color:#999}}"
)
_HEAD = ("mount", "state", "version", "waiting for upload", "uploaded", "error")


def status_page(report: dict[str, Any]) -> str:
    """Return the page for a daemon's report (report.py)."""
    head = "".join(f"<th>{title}" for title in _HEAD)
    rows = "".join(_row(mount) for mount in report["mounts"])
    error = f"<p class=bad>configuration not taken: {escape(report['config_error'])}" if report["config_error"] else ""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5><title>ckptfsd</title>"
        f"<style>{_STYLE}</style><h1>ckptfsd</h1><p>{escape(report['summary'])}{error}"
        f"<table><tr>{head}{rows}</table><p><small>ckptfs {escape(report['version'])}, {escape(report['config'])}, "
        f"pid {report['pid']}, up {report['up_s']:.0f} s</small></html>"
    )


def _row(mount: dict[str, Any]) -> str:
    status = mount["status"] or {}
    is_good = mount["state"] == "mounted"
    counters = status.get("counters", {})
    pending = status.get("pending") or []
    waiting = (
        f"{len(pending)} ({format_size(status.get('pending_bytes', 0))}, {status.get('pending_age_s')} s)"
        if pending
        else ""
    )
    cells = (
        f"{escape(mount['name'])}<br><small>{escape(str(mount['mountpoint']))}<br>{escape(str(mount['store']))}</small>",
        f"<span class={'good' if is_good else 'bad'}>{escape(mount['state'])}</span>",
        escape(str(status.get("version", ""))),
        escape(waiting),
        escape(format_size(counters.get("uploaded_bytes", 0)) if counters else ""),
        f"<span class=bad>{escape(str(mount['error'] or status.get('error') or ''))}</span>",
    )
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells)
