"""The origin: one nginx that listens on several ports, each a backend with a name of its own.

Every answer tells in `X-Origin` which backend gave it, and repeats in `X-Want` which one the client
said it belongs to: so the load generator can compare the two without remembering anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .payloads import HUGE, LARGE, MEDIUM, SMALL, UPLOAD
from .processes import Launch, free_port, running
from .tools import find_tool
from .visitors import is_answering

_STATIC = (MEDIUM, LARGE, HUGE)


class Origin(NamedTuple):
    """One backend, as the subjects get to know it."""

    name: str
    port: int

    @property
    def url(self) -> str:
        """The address for subjects that take a URL."""
        return f"http://127.0.0.1:{self.port}"


#: What both nginxes of the benchmark begin with: one worker, in the foreground, no log, and all
#: temporary files below its own folder. Only root can, and must, say who the worker is.
NGINX_MAIN = """
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid nginx.pid;
error_log stderr error;
{user}
events {{ worker_connections {connections}; }}
"""
NGINX_HTTP = """
    access_log off;
    client_body_temp_path client_body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
"""


def nginx_main(connections: int) -> str:
    """The first part of an nginx configuration."""
    user = "user root;" if os.geteuid() == 0 else ""
    return NGINX_MAIN.format(files=connections + 100, connections=connections, user=user)


def nginx(folder: Path, config: str) -> Launch:
    """How nginx is started with a configuration."""
    (folder / "nginx.conf").write_text(config)
    return Launch([find_tool("nginx"), "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"])


_NAMES = """
        add_header X-Origin {name};
        add_header X-Want $http_x_want;
        add_header X-Request-Id $http_x_request_id;
"""
# An upload is passed on, without its body, so that nginx has read all of it when it answers; the
# head has about 300 bytes, so $request_length tells whether every byte of the body arrived.
_SERVER = """
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root files;
        {names}
        location = {small.path} {{ return 200 {text}; }}
        location = {upload.path} {{
            {names}
            add_header X-Received $request_length;
            client_body_buffer_size 128k;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header Connection "";
            proxy_http_version 1.1;
            proxy_pass http://sink;
        }}
    }}
"""
_SINK = """
    upstream sink {{ server unix:{folder}/sink.sock; keepalive 64; }}
    server {{
        listen unix:{folder}/sink.sock;
        location / {{ return 200 {text}; }}
    }}
"""


def _config(folder: Path, origins: list[Origin]) -> str:
    text = "x" * SMALL.received
    servers = [
        _SERVER.format(
            port=origin.port,
            names=_NAMES.format(name=origin.name),
            small=SMALL,
            upload=UPLOAD,
            text=text,
        )
        for origin in origins
    ]
    return (
        nginx_main(connections=18000)
        + "http {"
        + NGINX_HTTP
        + "sendfile on; tcp_nopush on; open_file_cache max=16;"
        + _SINK.format(folder=folder, text=text)
        + "".join(servers)
        + "}\n"
    )


@contextlib.contextmanager
def running_origins(folder: Path, count: int, *, core: int) -> Iterator[list[Origin]]:
    """Run the origin for the time of a `with` block."""
    files = folder / "files"
    files.mkdir(parents=True)
    for payload in _STATIC:
        with (files / payload.path.lstrip("/")).open("wb") as file:
            file.truncate(payload.received)
    origins = [Origin(f"origin-{number}", free_port()) for number in range(1, count + 1)]
    launch = nginx(folder, _config(folder, origins))
    with running("origin", launch, core=core, log=folder / "log") as server:
        server.wait_until(lambda: all(is_answering(origin.port) for origin in origins))
        yield origins
