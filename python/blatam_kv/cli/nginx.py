"""``deploy nginx``: the configuration of an nginx in front of N nodes, a gateway and other services.

One file for the ``http`` context, as in /etc/nginx/conf.d. What it promises (tests/test_nginx.py): a
node that dies costs no answer that had not begun, streams pass as they come, and who asks again
finds the node that knows it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from blatam_kv.config import did_you_mean
from blatam_kv.errors import ConfigError

AFFINITIES = ("tenant", "prefix", "none")
_PLACE = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")
_LISTEN = re.compile(r"(([0-9.]+|\[[0-9A-Fa-f:]+\]):)?(\d{1,5})")
_NAME = re.compile(r"[A-Za-z0-9*_]([A-Za-z0-9.*-]*[A-Za-z0-9*])?")
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Names that BUL has at its own root.
_TAKEN = (
    "api",
    "v1",
    "query",
    "task",
    "tasks",
    "documents",
    "search",
    "agents",
    "processor",
    "docs",
)

# What stands for the caller in each kind of affinity; empty is: whoever has least to do.
_AFFINITY = {
    "tenant": ("the caller's key", '"$blatam_kv_caller"'),
    "prefix": ("the caller's key and X-Prefix-Key", '"$blatam_kv_prefix"'),
}


def nginx(
    nodes: Sequence[str],
    *,
    gateway: str | None = None,
    services: Mapping[str, str] | None = None,
    listen: str = "80",
    names: Sequence[str] = (),
    certificate: Path | None = None,
    certificate_key: Path | None = None,
    affinity: str = "tenant",
    rate: int = 100,
) -> str:
    """The configuration as text.

    nodes, gateway, services: HOST:PORT each; services by the first part of their paths. listen: port
    or address:port for plain HTTP, which with a certificate leads to 443. names: of the server, any
    without. affinity: what decides on the node: ``tenant``, ``prefix`` or ``none``. rate: requests a
    second of one address, 0 for no limit.

    Raises ConfigError, naming the option and the fix.
    """
    services = services or {}
    _check_places(nodes, gateway, services)
    _check_options(listen, names, (certificate, certificate_key), affinity, rate)
    parts = [
        _HEAD,
        _AFFINITY_MAPS if affinity != "none" else "",
        _prefix_map() if affinity == "prefix" else "",
        _upstreams(nodes, gateway, services, affinity),
        f"limit_req_zone $binary_remote_addr zone=blatam_kv:10m rate={rate}r/s;\n" if rate else "",
        "limit_conn_zone $binary_remote_addr zone=blatam_kv_conn:10m;\n",
        _redirect(listen, names) if certificate else "",
        "\nserver {\n",
        _listen(listen, names, certificate, certificate_key),
        _LIMITS,
        _RATE.format(burst=2 * rate) if rate else "",
        _PROXY,
        _locations(gateway, services, affinity),
        "}\n",
    ]
    return "".join(parts)


def write_alone(folder: Path, site: str) -> None:
    """Write nginx.conf and site.conf for an nginx of its own, with all it writes in this folder."""
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(_ALONE.format(user=user, folder=folder))


# ---- what may be asked for ----------------------------------------------------------------------


def _check_places(nodes: Sequence[str], gateway: str | None, services: Mapping[str, str]) -> None:
    if not nodes:
        raise ConfigError("--nodes: name at least one, for example --nodes 10.0.0.1:8002")
    for option, place in [
        *(("--nodes", node) for node in nodes),
        *(("--gateway", place) for place in (gateway,) if place is not None),
        *(("--service", place) for place in services.values()),
    ]:
        found = _PLACE.fullmatch(place)
        if found is None or not 0 < int(found[2]) < 65536:
            raise ConfigError(f"{option}: {place!r} is not HOST:PORT, for example 10.0.0.1:8002")
    if len(set(nodes)) != len(nodes):
        raise ConfigError("--nodes: a node is there twice")
    for name in services:
        if not _SERVICE.fullmatch(name) or name in _TAKEN:
            raise ConfigError(
                f"--service: {name!r} cannot be the first part of a path; take another"
            )


def _check_options(
    listen: str,
    names: Sequence[str],
    certificate: tuple[Path | None, Path | None],
    affinity: str,
    rate: int,
) -> None:
    found = _LISTEN.fullmatch(listen)
    if found is None or not 0 < int(found[3]) < 65536:
        raise ConfigError(f"--listen: {listen!r} is not a port or ADDRESS:PORT, for example 80")
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--server-name: {name!r} is not a host name")
    if (certificate[0] is None) != (certificate[1] is None):
        raise ConfigError("--certificate and --certificate-key go together: name both or none")
    for path in certificate:
        if path is not None and re.search(r"[\s;{}\"'$\\]", str(path)):
            raise ConfigError(f"{str(path)!r} cannot stand in an nginx configuration; rename it")
    if affinity not in AFFINITIES:
        hint = did_you_mean(affinity, AFFINITIES)
        raise ConfigError(f"--affinity: must be one of {', '.join(AFFINITIES)}{hint}")
    if not 0 <= rate <= 1_000_000:
        raise ConfigError("--rate: must be requests a second from 0 (no limit) to 1000000")


_ALONE = """\
{user}worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""

# ---- the parts ----------------------------------------------------------------------------------

_HEAD = """\
# Made by `blatam-kv deploy nginx`; for the http context, for example in /etc/nginx/conf.d.
# On each node set BUL_TRUSTED_PROXIES to the network of this machine, and BUL_ALLOWED_HOSTS to the
# names below if it listens on a loopback address.

# An id that a caller gave is kept if it is one.
map $http_x_request_id $blatam_kv_request_id {
    default                         $request_id;
    "~^[A-Za-z0-9._-]{1,128}$"      $http_x_request_id;
}

# A WebSocket goes through as one; everything else keeps its connection to the node.
map $http_upgrade $blatam_kv_connection {
    default                         "";
    "~*^websocket$"                 upgrade;
}
map $http_upgrade $blatam_kv_upgrade {
    default                         "";
    "~*^websocket$"                 websocket;
}
"""

_AFFINITY_MAPS = """
# Who asks, by what it shows: the key id of a signature, or an API key.
map $http_signature_input $blatam_kv_signer {
    default                         "";
    "~;keyid=\\"(?<keyid>[^\\"]{1,128})\\"" $keyid;
}
map "$http_x_api_key$http_authorization" $blatam_kv_caller {
    default                         "$http_x_api_key$http_authorization";
    ""                              $blatam_kv_signer;
}
"""


def _prefix_map() -> str:
    return """
# Which conversation: a client that sends the same X-Prefix-Key (a digest of how its prompts begin)
# finds the node that holds their keys and values.
map $http_x_prefix_key $blatam_kv_prefix {
    default                         "$blatam_kv_caller $http_x_prefix_key";
    ""                              "";
}
"""


def _upstreams(
    nodes: Sequence[str], gateway: str | None, services: Mapping[str, str], affinity: str
) -> str:
    # No number of failures takes a node out. nginx counts a 503 as one, and while the database is away
    # every node answers 503 to what is not cached: all would be out, and nobody left for the hits. A
    # process that is dead refuses at once, and the next node is asked.
    servers = "".join(f"    server {node} max_fails=0;\n" for node in nodes)
    text = f"""
upstream blatam_kv_least_busy {{
    zone blatam_kv_least_busy 64k;
    least_conn;
{servers}    keepalive 64;
}}
"""
    if affinity != "none":
        what, key = _AFFINITY[affinity]
        text += f"""
# By {what}: a node that leaves or comes moves its own share of them, no others.
upstream blatam_kv_same_node {{
    zone blatam_kv_same_node 64k;
    hash {key} consistent;
{servers}    keepalive 64;
}}
map {key} $blatam_kv_nodes {{
    default                         blatam_kv_same_node;
    ""                              blatam_kv_least_busy;
}}
"""
    others = {} if gateway is None else {"blatam_kv_gateway": gateway}
    others |= {f"blatam_kv_service_{name}": place for name, place in services.items()}
    for name, place in others.items():
        text += f"\nupstream {name} {{\n    server {place} max_fails=0;\n    keepalive 16;\n}}\n"
    return text + "\n"


def _redirect(listen: str, names: Sequence[str]) -> str:
    return f"""
server {{
    listen {listen};
    server_name {" ".join(names) or "_"};
    return 308 https://$host$request_uri;
}}
"""


def _listen(
    listen: str, names: Sequence[str], certificate: Path | None, certificate_key: Path | None
) -> str:
    name = f"    server_name {' '.join(names) or '_'};\n"
    if certificate is None:
        return f"    listen {listen};\n{name}"
    return f"""\
    listen 443 ssl http2;
{name}    ssl_certificate {certificate};
    ssl_certificate_key {certificate_key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:blatam_kv_tls:10m;
    ssl_session_tickets off;
    add_header Strict-Transport-Security "max-age=31536000" always;
"""


_LIMITS = """
    # A little above the service's own limit, so that its answer is the one that is heard.
    client_max_body_size 1100k;
    client_body_buffer_size 1100k;
    client_body_timeout 10s;
    client_header_timeout 10s;
    large_client_header_buffers 4 16k;
    limit_conn blatam_kv_conn 100;
    limit_conn_status 429;
"""

_RATE = """\
    limit_req zone=blatam_kv burst={burst} nodelay;
    limit_req_status 429;
"""

# A signature covers the name and the path as the client wrote them.
_PROXY = """
    proxy_http_version 1.1;
    proxy_set_header Upgrade $blatam_kv_upgrade;
    proxy_set_header Connection $blatam_kv_connection;
    proxy_set_header Host $http_host;
    proxy_set_header X-Request-ID $blatam_kv_request_id;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    # What is taken off a path before it is passed on; nothing that a client says of it is.
    set $blatam_kv_taken_off "";
    proxy_set_header X-Forwarded-Prefix $blatam_kv_taken_off;
    # A machine that is off costs its callers this, each time.
    proxy_connect_timeout 500ms;
    # The longest that an answer may be silent: writing one, or the next piece of a stream.
    proxy_read_timeout 630s;
    proxy_send_timeout 30s;
    # What a node did not begin to answer, the next one is asked. POST as well: the same request has
    # the same key, is written once and found in the cache, and Idempotency-Key covers the rest.
    proxy_next_upstream error timeout http_502 http_503 non_idempotent;
    proxy_next_upstream_tries 3;
    # Answers are small, and streams must not wait for a buffer to fill.
    proxy_buffering off;

    # What nginx itself refuses, it refuses as the service would.
    error_page 502 504 = @blatam_kv_unavailable;
    error_page 429 = @blatam_kv_too_many;
    location @blatam_kv_unavailable {
        internal;
        default_type application/problem+json;
        add_header Retry-After 1 always;
        return 503 '{"title":"Service Unavailable","status":503,"detail":"no node answers; try again later","code":"S001"}';
    }
    location @blatam_kv_too_many {
        internal;
        default_type application/problem+json;
        add_header Retry-After 1 always;
        return 429 '{"title":"Too Many Requests","status":429,"detail":"too many requests from this address; slow down","code":"S004"}';
    }

    # For Prometheus, which asks each node itself.
    location = /metrics {
        return 404;
    }
"""


def _locations(gateway: str | None, services: Mapping[str, str], affinity: str) -> str:
    nodes = "blatam_kv_least_busy" if affinity == "none" else "$blatam_kv_nodes"
    text = f"""
    location / {{
        proxy_pass http://{nodes};
    }}

    # A node that is paused or cut off takes connections and says nothing: the next one is asked. Streams
    # of events say something every 15 seconds; the others are answered at once, or refused after eight,
    # which is how long a node waits for its database.
    location ~ ^/(task|api/batch)/[^/]+/events$ {{
        proxy_read_timeout 20s;
        proxy_pass http://{nodes};
    }}
    location ~ ^/(query|task|tasks|documents|search|stats)(/|$) {{
        proxy_read_timeout 10s;
        proxy_pass http://{nodes};
    }}
"""
    if gateway is not None:
        text += f"""
    location /api/v1/ {{
        proxy_pass http://blatam_kv_gateway;
    }}
    location /api/v1/kv-cache/ {{
        proxy_pass http://{nodes};
    }}
"""
    for name in services:
        text += f"""
    location /{name}/ {{
        set $blatam_kv_taken_off /{name};
        proxy_pass http://blatam_kv_service_{name}/;
    }}
"""
    return text
