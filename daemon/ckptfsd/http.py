"""The control API: HTTP on a Unix socket, whose permissions say who may, and if asked on a loopback port with a token.

    GET  /                          the status page
    GET  /healthz                   200 if every mount is as it is wanted, else 503
    GET  /metrics                   for Prometheus
    GET  /v1/status                 the daemon with all mounts
    GET  /v1/mounts                 {"mounts": [...]}
    GET  /v1/mounts/NAME
    POST /v1/mounts/NAME/save       {"note": text or JSON, "wait": bool}: what `.save` says
    POST /v1/mounts/NAME/stop       unmounts, and keeps it so
    POST /v1/mounts/NAME/start      mounts it again
    POST /v1/save                   {"wait": bool}: every mount
    POST /v1/reload                 takes the configuration anew

An error is {"error": fact, "hint": what to do}. What changes something takes application/json only, so that no web page
that a browser shows can ask for it.
"""

import base64
import binascii
import hmac
import json
import logging
import os
import shutil
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from ckptfs.errors import CkptfsError, InvalidInputError
from ckptfsd.configuration_files import ConfigurationError
from ckptfsd.daemon import Daemon, NoSuchMountError
from ckptfsd.metrics import CONTENT_TYPE, scrape
from ckptfsd.page import status_page
from ckptfsd.report import daemon_report, is_healthy, mount_report, mount_reports

log = logging.getLogger("ckptfsd")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MOST_BODY_BYTES = 128 << 10
"""A note has at most 64 KiB; escaped in JSON it may be longer."""
_SHUTDOWN_S = 1.0
_STATUSES = ((NoSuchMountError, 404), (ConfigurationError, 409), (InvalidInputError, 400))
"""The first that fits; 500 for what went wrong here."""


class ControlServer:
    """Answers for one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Listen. Raises CkptfsError: It cannot be listened there, or there is no token."""
        settings = self._daemon.configuration.daemon
        await self._start_unix(self._daemon.socket, settings.socket_group)
        if settings.listen is not None and settings.token_file is not None:
            token = _read_token(settings.token_file)
            host, _, port = settings.listen.rpartition(":")
            runner = await self._runner(token)
            try:
                await web.TCPSite(runner, host.strip("[]"), int(port)).start()
            except OSError as error:
                raise InvalidInputError(f"cannot listen on {settings.listen}: {error.strerror}") from error

    async def stop(self) -> None:
        """Listen no more."""
        for runner in self._runners:
            await runner.cleanup()
        self._daemon.socket.unlink(missing_ok=True)

    async def _start_unix(self, path: Path, group: str | None) -> None:
        # the daemon's lock is held: what is there was left by one that was killed
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # nobody else may connect before the group and the mode are right
            before = os.umask(0o177)
            try:
                listening.bind(os.fspath(path))
            finally:
                os.umask(before)
            if group is not None:
                shutil.chown(path, group=group)
                path.chmod(0o660)
        except (OSError, LookupError) as error:
            listening.close()
            raise InvalidInputError(
                f"cannot listen on {path}: {error}", hint="set runtime-dir or socket-group in [daemon]"
            ) from error
        await web.SockSite(await self._runner(None), listening).start()

    async def _runner(self, token: str | None) -> web.AppRunner:
        runner = web.AppRunner(make_application(self._daemon, token), access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        self._runners.append(runner)
        return runner


def make_application(daemon: Daemon, token: str | None) -> web.Application:
    """Return what answers; with a token, only those who know it."""
    api = _Api(daemon)
    guards = [_errors_as_json] if token is None else [_errors_as_json, _asking_for(token)]
    application = web.Application(middlewares=guards, client_max_size=_MOST_BODY_BYTES)
    application.add_routes(
        [
            web.get("/", api.page),
            web.get("/healthz", api.health),
            web.get("/metrics", api.metrics),
            web.get("/v1/status", api.status),
            web.get("/v1/mounts", api.mounts),
            web.get("/v1/mounts/{name}", api.mount),
            web.post("/v1/mounts/{name}/save", api.save),
            web.post("/v1/mounts/{name}/stop", api.stop),
            web.post("/v1/mounts/{name}/start", api.start),
            web.post("/v1/save", api.save_all),
            web.post("/v1/reload", api.reload),
        ]
    )
    return application


class _Api:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def page(self, request: web.Request) -> web.StreamResponse:
        page = status_page(await self._report())
        return web.Response(
            text=page,
            content_type="text/html",
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    async def health(self, request: web.Request) -> web.StreamResponse:
        is_good = is_healthy(self._daemon)
        return web.json_response(
            {"healthy": is_good, "summary": self._daemon.summary()}, status=200 if is_good else 503
        )

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=scrape(await self._report()), headers={"Content-Type": CONTENT_TYPE})

    async def status(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._report())

    async def mounts(self, request: web.Request) -> web.StreamResponse:
        await self._ask()
        return web.json_response({"mounts": mount_reports(self._daemon)})

    async def mount(self, request: web.Request) -> web.StreamResponse:
        mount = self._daemon.mount(request.match_info["name"])
        await self._ask()
        return web.json_response(mount_report(self._daemon, mount))

    async def save(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, "note", "wait")
        return web.json_response(
            await self._daemon.save(request.match_info["name"], _note(body), wait=body.get("wait", False))
        )

    async def stop(self, request: web.Request) -> web.StreamResponse:
        await _body(request)
        mount = await self._daemon.stop_mount(request.match_info["name"])
        left = mount.left
        return web.json_response(
            {
                "mountpoint": mount_report(self._daemon, mount)["mountpoint"],
                "left_versions": left.versions if left is not None else 0,
                "left_bytes": left.bytes if left is not None else 0,
                "cache": os.fspath(left.cache) if left is not None and left.cache is not None else None,
            }
        )

    async def start(self, request: web.Request) -> web.StreamResponse:
        await _body(request)
        return web.json_response(mount_report(self._daemon, await self._daemon.start_mount(request.match_info["name"])))

    async def save_all(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, "wait")
        answers = await self._daemon.save_all(wait=body.get("wait", False))
        has_failed = any("hint" in answer for answer in answers.values())
        return web.json_response({"mounts": answers}, status=500 if has_failed else 200)

    async def reload(self, request: web.Request) -> web.StreamResponse:
        await _body(request)
        self._daemon.reload("the API")
        return web.json_response(await self._report())

    async def _ask(self) -> None:
        await self._daemon.observer.ask(self._daemon.mounts)

    async def _report(self) -> dict[str, Any]:
        await self._ask()
        return daemon_report(self._daemon)


async def _body(request: web.Request, *known: str) -> dict[str, Any]:
    """Return the JSON object of a request, which may say what is known, and nothing else. Raises InvalidInputError."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(
            text="send Content-Type: application/json, and {} if there is nothing to say"
        )
    try:
        body = json.loads(await request.read() or b"{}")
    except (ValueError, RecursionError, web.RequestPayloadError) as error:
        raise InvalidInputError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidInputError("the body is not a JSON object")
    # a misspelt "wait" would be answered before anything is durable
    for key in body.keys() - set(known):
        raise InvalidInputError(f"nothing here is called {key!r}", hint=f"known: {', '.join(known) or 'none'}")
    if not isinstance(body.get("wait", False), bool):
        raise InvalidInputError("wait is neither true nor false")
    return body


def _note(body: dict[str, Any]) -> str | None:
    """Return a note as text that can be an argument of a command. Raises InvalidInputError."""
    note = body.get("note")
    if note is None:
        return None
    text = note if isinstance(note, str) else json.dumps(note)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidInputError("the note has characters that are no text: NUL, or half of a surrogate pair")
    return text


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except CkptfsError as error:
        status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
        return web.json_response({"error": error.fact, "hint": error.hint}, status=status)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = (
            {"WWW-Authenticate": error.headers["WWW-Authenticate"]} if "WWW-Authenticate" in error.headers else None
        )
        return web.json_response(
            {"error": error.text or error.reason, "hint": None}, status=error.status, headers=headers
        )


def _asking_for(token: str) -> Any:
    """Return a guard that asks for the token: as a bearer, or as the password of a browser's question."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not hmac.compare_digest(_given_token(request).encode(), token.encode()):
            raise web.HTTPUnauthorized(
                text="the token is missing or wrong", headers={"WWW-Authenticate": 'Basic realm="ckptfsd"'}
            )
        return await handler(request)

    return guard


def _given_token(request: web.Request) -> str:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _read_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise InvalidInputError(f"cannot read the token file {path}: {error.strerror}") from error
    if len(token) < 16:
        raise InvalidInputError(
            f"the token in {path} has less than 16 characters", hint=f"openssl rand -hex 32 >{path}"
        )
    if mode & 0o077:
        log.warning("others may read the token path=%s: chmod 600 is better", path)
    return token
