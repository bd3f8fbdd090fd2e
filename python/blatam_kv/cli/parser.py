"""What the command line of ``blatam-kv`` looks like: every command, its flags and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from blatam_kv import __version__
from blatam_kv.codecs import NAMES as CODECS
from blatam_kv.config import LOCAL_DTYPES, LOG_LEVELS, MODELS, STRATEGIES
from blatam_kv.simulation import DEFAULT_CAPACITY, DEFAULT_POLICY

DEFAULT_URL = "http://127.0.0.1:8002"
EXPORT_PORT = 8005

_EXAMPLES = """\
examples:
  blatam-kv demo                       documents through the cache, twice, into demo-output/
  blatam-kv serve --port 8002          the service
  blatam-kv serve --model openai --openai-base-url http://127.0.0.1:8000/v1 --openai-model NAME
                                       the service in front of a model server
  blatam-kv serve --model local --local-model models/writer
                                       the service with a transformers model of this machine
  blatam-kv gateway --config FILE      one address in front of the service and other systems
  blatam-kv serve --only export         the renderer alone: documents in six formats
  blatam-kv keys create --tenant acme   who may ask: an API key and a signing key
  blatam-kv config --show-origin        what the service would run with, and why
  blatam-kv stats --json               what the running service has done
  blatam-kv batch submit list.csv --output documents.zip
                                       a list of documents, written and fetched
  blatam-kv clear                      forget every cached answer of the running service
  blatam-kv policy lfu                 another policy for its cache, until it stops
  blatam-kv simulate t.u32.xz --policy lru --policy belady --capacity 1%
                                       hit ratios of policies on a trace
  blatam-kv quality --plot codecs.png  what each codec costs in bits and keeps in quality
  blatam-kv backup create DIR BACKUPS  a verified copy of a cache, while it is in use
  blatam-kv migrate up DIR --dry-run   what a cache of the original becomes
  blatam-kv deploy nginx --nodes 10.0.0.1:8002,10.0.0.2:8002
                                       a configuration of nginx in front of them
  blatam-kv bench                      the speed tables
  blatam-kv doctor                     what this machine has and lacks

exit status: 0 ok, 1 failed, 2 wrong usage, 3 the service cannot be reached
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``blatam-kv``; a flag's dest is the name of its setting."""
    parser = argparse.ArgumentParser(
        prog="blatam-kv",
        description="A cache for what language models compute twice, and BUL, the document "
        "service on top of it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"blatam-kv {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the service until it is told to stop")
    _config_flag(serve)
    serve.add_argument(
        "--only",
        choices=("export",),
        help=f"one part of it: export renders documents and nothing else (port {EXPORT_PORT})",
    )
    serve.add_argument("--host", dest="api_host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", dest="api_port", help="port; 0 takes a free one (8002)")
    _data_dir_flag(serve)
    serve.add_argument("--cache-strategy", help=f"one of {', '.join(STRATEGIES)} (adaptive)")
    serve.add_argument("--cache-ttl", help="seconds an answer stays fresh, or none (3600)")
    serve.add_argument("--cache-max-memory-mb", help="MiB of answers to keep (256)")
    serve.add_argument(
        "--kv-memory-mb",
        metavar="N",
        help="MiB of keys and values of prompts to keep (256; 0: none)",
    )
    serve.add_argument(
        "--kv-disk-mb",
        metavar="N",
        help="MiB of them in the data directory (8 times the memory, at most half of what is free)",
    )
    serve.add_argument(
        "--kv-redis-url", metavar="URL", help="where nodes share them (nowhere); see --redis-url"
    )
    serve.add_argument("--kv-codec", metavar="NAME", help=f"one of {', '.join(CODECS)} (raw)")
    serve.add_argument("--kv-policy", metavar="NAME", help="what leaves memory first (adaptive)")
    serve.add_argument(
        "--cache-persistence", metavar="on|off", help="whether answers outlive the service (on)"
    )
    serve.add_argument(
        "--cache-persistence-path", metavar="DIR", help="where (answers in the data directory)"
    )
    serve.add_argument(
        "--backup-enabled", metavar="on|off", help="back up what is kept on disk (off)"
    )
    serve.add_argument("--backup-dir", metavar="DIR", help="where (backups in the data directory)")
    serve.add_argument("--backup-interval-hours", metavar="N", help="how often (6)")
    serve.add_argument("--backup-keep", metavar="N", help="how many to keep (120)")
    serve.add_argument("--backup-retention-days", metavar="N", help="and how long (30)")
    serve.add_argument(
        "--redis-url",
        metavar="URL",
        help="where nodes share answers (nowhere); with a password better in BUL_REDIS_URL, since "
        "every user of the machine can read command lines",
    )
    serve.add_argument("--max-concurrent-tasks", help="documents written at a time (2)")
    serve.add_argument("--max-queued-tasks", help="documents that may wait (4000)")
    serve.add_argument(
        "--drain-seconds", metavar="N", help="what a stop may take to finish what is begun (15)"
    )
    _model_flags(serve)
    serve.add_argument("--log-level", help=f"one of {', '.join(LOG_LEVELS)} (info)")

    gateway = commands.add_parser("gateway", help="one address in front of BUL and other systems")
    gateway.add_argument("--config", type=Path, metavar="FILE", help="YAML or JSON: the systems")
    gateway.add_argument("--host", metavar="ADDRESS", help="address to listen on (127.0.0.1)")
    gateway.add_argument("--port", type=int, metavar="N", help="port; 0 takes a free one (8000)")
    gateway.add_argument(
        "--check", action="store_true", help="read the configuration, show it, and serve nothing"
    )
    _data_dir_flag(gateway)
    _json_flag(gateway)

    demo = commands.add_parser("demo", help="write documents through the cache, twice")
    _config_flag(demo)
    demo.add_argument(
        "--output", dest="output_directory", metavar="DIR", help="where to (demo-output)"
    )
    _json_flag(demo)

    for name, text in (
        ("stats", "what the running service has done"),
        ("health", "whether the running service is well"),
        ("clear", "forget every cached answer of the running service"),
        ("monitor", "a line every few seconds on how the running service does"),
        ("policy", "which policy decides what leaves the running service's cache"),
        ("pins", "answers that the running service never evicts"),
    ):
        remote = commands.add_parser(name, help=text)
        remote.add_argument("--url", default=DEFAULT_URL, help=f"the service ({DEFAULT_URL})")
        _config_flag(remote)
        _data_dir_flag(remote)
        _json_flag(remote)
        if name == "policy":
            remote.add_argument("wanted", nargs="?", metavar="NAME", help="let this one decide")
        if name == "pins":
            one = remote.add_mutually_exclusive_group()
            one.add_argument("--add", metavar="DOCUMENT", help="pin the answer of this document")
            one.add_argument("--remove", metavar="DOCUMENT", help="let go of it")
        if name == "monitor":
            remote.add_argument("--interval", type=float, default=5.0, help="seconds (5)")
            remote.add_argument("--count", type=int, metavar="N", help="lines to print (no end)")

    settings = commands.add_parser("config", help="what the service would run with")
    _config_flag(settings)
    _data_dir_flag(settings)
    settings.add_argument("--show-origin", action="store_true", help="and who said so")
    _json_flag(settings)

    _keys_command(commands)
    _batch_command(commands)
    sign = commands.add_parser(
        "sign",
        help="headers of a signed request, for curl -H @-",
        description="Prints the headers of a signed request. The signing key is read from "
        "BLATAM_KV_SIGNING_KEY: command lines are seen by everyone on the machine.",
    )
    sign.add_argument("url", metavar="URL")
    sign.add_argument("--key-id", required=True, metavar="ID")
    sign.add_argument("--method", default="GET", metavar="NAME", help="(GET)")
    sign.add_argument("--data", metavar="TEXT|@FILE", help="the body; @- reads standard input")
    sign.add_argument("--content-type", default="application/json", help="(application/json)")
    _json_flag(sign)

    simulate = commands.add_parser("simulate", help="hit ratios of policies on a trace")
    simulate.add_argument(
        "trace", metavar="TRACE", help=".u32, .txt, .csv or .jsonl file, maybe packed (.xz, .gz)"
    )
    simulate.add_argument(
        "--policy",
        action="append",
        metavar="NAME",
        help=f"may be repeated; belady is the optimum ({DEFAULT_POLICY})",
    )
    simulate.add_argument(
        "--capacity",
        action="append",
        metavar="N|P%",
        help="objects, or with sizes bytes, or a share of the unique ones; may be repeated "
        f"({DEFAULT_CAPACITY}; a whole curve with --plot)",
    )
    simulate.add_argument("--sizes", metavar="FILE", help="sizes of the requests, a .sz file")
    simulate.add_argument("--column", metavar="NAME", help="the CSV column of the keys (the first)")
    simulate.add_argument("--size-column", metavar="NAME", help="the CSV column of the sizes")
    simulate.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the curves: .png, .svg, …"
    )
    simulate.add_argument("--quiet", action="store_true", help="no progress bar")
    _json_flag(simulate)

    quality = commands.add_parser("quality", help="what each codec costs in bits and keeps")
    source = quality.add_mutually_exclusive_group()
    source.add_argument(
        "--model", type=Path, metavar="DIR", help="a transformers model instead of the embedded one"
    )
    source.add_argument(
        "--kv", type=Path, metavar="FILE", help=".npz with keys, values and perhaps queries"
    )
    quality.add_argument(
        "--codec", action="append", choices=CODECS, metavar="NAME", help="may be repeated (all)"
    )
    quality.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw error against bits: .png, .svg, …"
    )
    _json_flag(quality)

    _backup_commands(commands.add_parser("backup", help="copies of a cache, and back"))

    _migrate_commands(commands.add_parser("migrate", help="from the original's caches, and back"))

    export = commands.add_parser("export", help="a cache as .pt or safetensors files")
    export.add_argument("source", type=Path, metavar="CACHE", help="the folder of the cache")
    export.add_argument("target", type=Path, metavar="DIR", help="a new folder")
    export.add_argument("--format", default="pt", metavar="FORMAT", help="pt or safetensors (pt)")
    back = commands.add_parser("import", help="such files as a cache")
    back.add_argument("source", type=Path, metavar="DIR", help="what export wrote")
    back.add_argument("target", type=Path, metavar="CACHE", help="a cache, or a new folder")
    back.add_argument(
        "--disk-bytes", type=int, default=1 << 30, metavar="N", help="the cache's bound (1 GiB)"
    )
    for command in (export, back):
        command.add_argument("--quiet", action="store_true", help="no progress bar")
        _json_flag(command)

    _deploy_commands(commands.add_parser("deploy", help="configurations for the servers around it"))

    bench = commands.add_parser("bench", help="the speed tables, or traffic for a service")
    bench.add_argument("names", nargs="*", metavar="NAME", help="tables to run (all)")
    bench.add_argument("--http", metavar="URL", help="instead, send traffic to a running service")
    bench.add_argument("--seconds", type=float, default=10.0, help="of traffic (10)")
    bench.add_argument("--connections", type=int, default=4, help="that ask at once (4)")
    _config_flag(bench)
    _data_dir_flag(bench)
    _json_flag(bench)

    devices = commands.add_parser("devices", help="the GPUs of this machine and what they do")
    devices.add_argument("--url", help="instead, what the model of a running service runs on")
    devices.add_argument("--watch", action="store_true", help="a line for each, again and again")
    devices.add_argument("--interval", type=float, default=2.0, help="seconds between them (2)")
    devices.add_argument("--count", type=int, metavar="N", help="how often (no end)")
    _config_flag(devices)
    _data_dir_flag(devices)
    _json_flag(devices)

    doctor = commands.add_parser("doctor", help="report what this machine has and lacks")
    _config_flag(doctor)
    doctor.add_argument("--data-dir", metavar="DIR", help="the data directory to check")
    _model_flags(doctor)
    _json_flag(doctor)
    return parser


def _batch_command(commands: Any) -> None:
    batch = commands.add_parser("batch", help="a list of documents for the running service")
    actions = batch.add_subparsers(dest="action", required=True, metavar="ACTION")
    submit = actions.add_parser("submit", help="ask for all documents of a list")
    submit.add_argument("file", type=Path, metavar="FILE", help=".json, .csv or .xlsx")
    submit.add_argument("--priority", type=int, metavar="N", help="0 critical to 4 background (3)")
    submit.add_argument("--callback-url", metavar="URL", help="told when all have ended")
    submit.add_argument("--no-wait", action="store_true", help="do not follow it to its end")
    follow = actions.add_parser("follow", help="wait for the end of one")
    cancel = actions.add_parser("cancel", help="end what is not finished of one")
    for action in (follow, cancel):
        action.add_argument("batch", metavar="BATCH", help="the id that submit printed")
    for action in (submit, follow):
        action.add_argument("--output", type=Path, metavar="ZIP", help="write the documents there")
    for action in (submit, follow, cancel):
        action.add_argument("--url", default=DEFAULT_URL, help=f"the service ({DEFAULT_URL})")
        _config_flag(action)
        _data_dir_flag(action)
        _json_flag(action)


def _keys_command(commands: Any) -> None:
    keys = commands.add_parser("keys", help="who may ask the service")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key, and its tenant with the first one")
    create.add_argument("--tenant", required=True, metavar="NAME")
    create.add_argument(
        "--role", default="writer", help="writer, reader, monitor or admin (writer)"
    )
    create.add_argument(
        "--allow", action="append", metavar="CIDR", help="use from this network only; repeatable"
    )
    create.add_argument("--rate", type=int, metavar="N", help="requests a window of its own")
    create.add_argument("--days", type=float, metavar="N", help="days it works (for ever)")
    rotate = actions.add_parser("rotate", help="a successor for a key")
    rotate.add_argument("key", metavar="KEY")
    rotate.add_argument(
        "--overlap",
        type=float,
        default=86_400,
        metavar="SECONDS",
        help="the old one works on (1 day)",
    )
    revoke = actions.add_parser("revoke", help="end a key now")
    revoke.add_argument("key", metavar="KEY")
    listing = actions.add_parser("list", help="every key, without its secrets")
    for action in (create, rotate, revoke, listing):
        _config_flag(action)
        _data_dir_flag(action)
        _json_flag(action)


def _data_dir_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-dir", metavar="DIR", help="the data directory of the service")


def _backup_commands(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="copy a cache; its writer may go on meanwhile")
    create.add_argument("source", type=Path, metavar="CACHE", help="the folder of the cache")
    create.add_argument("root", type=Path, metavar="BACKUPS", help="where backups lie")
    create.add_argument("--compress", action="store_true", help="with zstd")
    create.add_argument("--keep", type=int, metavar="N", help="afterwards keep the newest N")
    create.add_argument("--days", type=float, metavar="D", help="and none older than D days")
    listing = actions.add_parser("list", help="which backups there are")
    listing.add_argument("root", type=Path, metavar="BACKUPS", help="where backups lie")
    verify = actions.add_parser("verify", help="read every byte of a backup")
    restore = actions.add_parser("restore", help="put a backup in a cache's place")
    for command in (verify, restore):
        command.add_argument("path", type=Path, metavar="BACKUP", help="BACKUPS/cache_...")
    restore.add_argument("target", type=Path, metavar="CACHE", help="the folder of the cache")
    restore.add_argument(
        "--tags", metavar="HEX", help="only the records with these tags, one tenant's; others stay"
    )
    for command in (create, verify, restore):
        command.add_argument(
            "--key-file", type=Path, metavar="FILE", help="encrypted under the secret in this file"
        )
    for command in (create, listing, verify, restore):
        _json_flag(command)


def _migrate_commands(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="what a folder holds")
    up = actions.add_parser("up", help="bring it to this version: all steps or none")
    down = actions.add_parser("down", help="go back to what was there, byte for byte")
    for command in (status, up, down):
        command.add_argument("folder", type=Path, metavar="DIR", help="settings and data")
        _json_flag(command)
    for command in (up, down):
        command.add_argument("--dry-run", action="store_true", help="change nothing")
    up.add_argument(
        "--database",
        metavar="URL",
        help="PostgreSQL whose table cache_entries comes along; its password belongs into PGPASSWORD "
        "or ~/.pgpass, since command lines are seen by everyone on the machine",
    )
    up.add_argument("--disk-bytes", type=int, metavar="N", help="the new cache's bound")
    up.add_argument("--quiet", action="store_true", help="no progress bar")


def _deploy_commands(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="SERVER")
    nginx = actions.add_parser("nginx", help="in front of nodes, a gateway and other services")
    nginx.add_argument(
        "--nodes",
        required=True,
        metavar="HOST:PORT,...",
        help="the services, each `blatam-kv serve`",
    )
    nginx.add_argument("--gateway", metavar="HOST:PORT", help="what answers /api/v1/ (the nodes)")
    nginx.add_argument(
        "--service",
        action="append",
        metavar="NAME=HOST:PORT",
        help="what answers /NAME/; may be repeated",
    )
    nginx.add_argument("--listen", default="80", metavar="[ADDRESS:]PORT", help="for HTTP (80)")
    nginx.add_argument("--server-name", metavar="NAME,...", help="its host names (any)")
    nginx.add_argument(
        "--certificate", type=Path, metavar="FILE", help="for TLS on port 443, as a PEM chain"
    )
    nginx.add_argument("--certificate-key", type=Path, metavar="FILE", help="its private key")
    nginx.add_argument(
        "--affinity",
        default="tenant",
        metavar="NAME",
        help="what leads to the same node: tenant, prefix (X-Prefix-Key) or none (tenant)",
    )
    nginx.add_argument(
        "--rate", type=int, default=100, metavar="N", help="requests a second of an address (100)"
    )


def _model_flags(command: argparse.ArgumentParser) -> None:
    """What writes. The key has no flag: every user of the machine can read command lines."""
    command.add_argument("--model", help=f"what writes, one of {', '.join(MODELS)} (mini)")
    command.add_argument(
        "--devices",
        metavar="NAME,...",
        help="what it runs on if it runs here: auto (every GPU), cuda:0,cuda:1, cpu",
    )
    command.add_argument(
        "--local-model", metavar="DIR", help="the folder of --model local, a transformers model"
    )
    command.add_argument("--local-dtype", help=f"one of {', '.join(LOCAL_DTYPES)} (auto)")
    command.add_argument("--local-device", metavar="NAME", help="as torch names it (cpu)")
    command.add_argument(
        "--local-context-tokens",
        metavar="N",
        help="tokens that prompt and answer may have (what the model's configuration says)",
    )
    command.add_argument(
        "--local-gpu-pool-mb",
        metavar="N",
        help="MiB of each GPU for beginnings of prompts (0: none)",
    )
    command.add_argument(
        "--openai-base-url",
        metavar="URL",
        help="the endpoint of --model openai, for example http://127.0.0.1:8000/v1, or several with "
        "commas between them; its key goes into BUL_OPENAI_API_KEY or BUL_OPENAI_API_KEY_FILE",
    )
    command.add_argument("--openai-model", metavar="NAME", help="the endpoint's name of the model")
    command.add_argument(
        "--openai-context-tokens",
        metavar="N",
        help="tokens that prompt and answer may have (what the endpoint says, else 4096)",
    )


def _config_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="YAML or JSON settings")


def _json_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")
