"""How each peer is configured: as comparable with the gateway as it allows.

All of them: one worker or thread, no access log, upstream connections kept alive, the forwarded
headers added, and affinity by a cookie wherever the peer has such a thing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .origin import NGINX_HTTP, Origin, nginx, nginx_main
from .processes import Launch
from .tools import find_tool

_ONE_THREAD = {"GOMAXPROCS": "1"}


@dataclass(frozen=True, slots=True)
class Site:
    """What a subject is given: a port to listen on, the origins, a folder."""

    port: int
    origins: Sequence[Origin]
    folder: Path

    def write(self, name: str, text: str) -> str:
        """Write a configuration file and return its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)


def traefik(site: Site) -> Launch:
    """Traefik: a sticky service from a file."""
    balancer = {
        "servers": [{"url": origin.url} for origin in site.origins],
        "sticky": {"cookie": {"name": "bench"}},
    }
    dynamic = {
        "http": {
            "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "bench"}},
            "services": {"bench": {"loadBalancer": balancer}},
        }
    }
    command = [
        find_tool("traefik"),
        f"--entryPoints.web.address=127.0.0.1:{site.port}",
        f"--providers.file.filename={site.write('dynamic.yaml', json.dumps(dynamic))}",
        "--providers.file.watch=false",
        "--global.checkNewVersion=false",
        "--global.sendAnonymousUsage=false",
        "--log.level=ERROR",
    ]
    return Launch(command, _ONE_THREAD)


_CADDY = """
{{
    admin off
    auto_https off
    persist_config off
    log default {{
        level ERROR
    }}
}}
http://127.0.0.1:{port} {{
    bind 127.0.0.1
    reverse_proxy {origins} {{
        lb_policy cookie bench secret
        transport http {{
            keepalive_idle_conns_per_host 1000
        }}
    }}
}}
"""


def caddy(site: Site) -> Launch:
    """Caddy: `lb_policy cookie`."""
    origins = " ".join(f"127.0.0.1:{origin.port}" for origin in site.origins)
    config = site.write("Caddyfile", _CADDY.format(port=site.port, origins=origins))
    command = [find_tool("caddy"), "run", "--config", config, "--adapter", "caddyfile"]
    return Launch(command, _ONE_THREAD | {"HOME": str(site.folder)})


_API = "type.googleapis.com/envoy"


def _envoy_address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy_filters() -> list[dict[str, object]]:
    cookie: dict[str, object] = {
        "name": "envoy.http.stateful_session.cookie",
        "typed_config": {
            "@type": f"{_API}.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
            "cookie": {"name": "bench", "path": "/"},
        },
    }
    sticky: dict[str, object] = {
        "name": "envoy.filters.http.stateful_session",
        "typed_config": {
            "@type": f"{_API}.extensions.filters.http.stateful_session.v3.StatefulSession",
            "session_state": cookie,
        },
    }
    router: dict[str, object] = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_API}.extensions.filters.http.router.v3.Router"},
    }
    return [sticky, router]


def envoy(site: Site) -> Launch:
    """Envoy: the stateful session filter with a cookie."""
    manager = {
        "@type": f"{_API}.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "bench",
        "use_remote_address": True,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "generate_request_id": False,
        "http_filters": _envoy_filters(),
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "bench", "timeout": "0s"}}
                    ],
                }
            ]
        },
    }
    listener = {
        "address": _envoy_address(site.port),
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }
    endpoints = [{"endpoint": {"address": _envoy_address(origin.port)}} for origin in site.origins]
    cluster = {
        "name": "bench",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "bench", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    config = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    path = site.write("envoy.json", json.dumps(config))
    command = [find_tool("envoy"), "-c", path, "--concurrency", "1", "-l", "error"]
    return Launch([*command, "--disable-hot-restart"])


_HAPROXY = """
global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    option forwardfor
    http-reuse always
frontend web
    bind 127.0.0.1:{port}
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    default_backend bench
backend bench
    balance roundrobin
    cookie bench insert indirect nocache
{servers}
"""


def haproxy(site: Site) -> Launch:
    """HAProxy: `cookie insert indirect`."""
    servers = "\n".join(
        f"    server {origin.name} 127.0.0.1:{origin.port} cookie {origin.name}"
        for origin in site.origins
    )
    config = site.write("haproxy.cfg", _HAPROXY.format(port=site.port, servers=servers))
    return Launch([find_tool("haproxy"), "-db", "-f", config])


# The free edition has no sticky cookie: a cookie with a random value is set, and hashed.
_NGINX = """
    map $cookie_bench $seat {{ "" $request_id; default $cookie_bench; }}
    map $http_upgrade $hop {{ "" ""; default upgrade; }}
    map $cookie_bench $new_cookie {{ "" "bench=$request_id; path=/"; default ""; }}
    upstream bench {{
        hash $seat;
        {servers}
        keepalive 256;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        client_max_body_size 0;
        client_body_buffer_size 128k;
        proxy_request_buffering off;
        proxy_max_temp_file_size 0;
        location / {{
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection $hop;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            add_header Set-Cookie $new_cookie;
        }}
    }}
"""


def nginx_proxy(site: Site) -> Launch:
    """nginx: `hash` over a cookie."""
    servers = " ".join(f"server 127.0.0.1:{origin.port};" for origin in site.origins)
    http = NGINX_HTTP + _NGINX.format(port=site.port, servers=servers)
    return nginx(site.folder, nginx_main(connections=10000) + "http {" + http + "}\n")


_BALANCERS: dict[str, object] = {"consistent_hash": {"consistent_hash": {"cookie": "user"}}}


def gateway(site: Site, *, size: int | None = None, policy: str = "round_robin") -> Launch:
    """sticky-asgi: a signed cookie, as its own command serves it.

    Backends in any number share the origins; connections to them stay open.
    """
    urls = [origin.url for origin in site.origins]
    pool = {
        "backends": [
            {"url": urls[number % len(urls)], "id": f"backend-{number}"}
            for number in range(size or len(urls))
        ],
        "balancer": _BALANCERS.get(policy, policy),
        "affinity": {"cookie": {}},
        "timeouts": {"keep_alive": "10m"},
    }
    settings = {
        "secrets": ["a secret for the benchmark only"],
        "pools": {"bench": pool},
        "routes": [{"path": "/", "pool": "bench"}],
    }
    file = site.write("gateway.yaml", json.dumps(settings, indent=1))
    command = [sys.executable, "-m", "sticky_asgi", "run", file]
    command += ["--port", str(site.port), "--keep-alive", "600"]
    return Launch(command, {"PYTHONPATH": _python_path()})


def _python_path() -> str:
    return os.pathsep.join(path for path in sys.path if path)


def asgi(module: str, site: Site) -> Launch:
    """One of `benchmarks.apps`, served by one uvicorn."""
    command = [sys.executable, "-m", "uvicorn", f"benchmarks.apps.{module}:app"]
    command += ["--host", "127.0.0.1", "--port", str(site.port), "--log-level", "warning"]
    command += ["--http", "httptools", "--loop", "uvloop", "--no-access-log"]
    command += ["--no-proxy-headers", "--no-server-header", "--no-date-header"]
    command += ["--timeout-keep-alive", "600", "--backlog", "4096"]
    env = {"BENCH_ORIGINS": " ".join(origin.url for origin in site.origins)}
    return Launch(command, {"PYTHONPATH": _python_path()} | env)
