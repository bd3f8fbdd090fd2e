"""What the command line of ``blatam-kv`` looks like: every command, its flags and its help.

A command with actions of its own is in ``actions``, a flag of several commands in ``flags``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from blatam_kv import __version__
from blatam_kv.cli.actions import (
    backup_command,
    batch_command,
    deploy_command,
    keys_command,
    migrate_command,
)
from blatam_kv.cli.flags import config_flag, data_dir_flag, json_flag, model_flags, url_flag
from blatam_kv.codecs import NAMES as CODECS
from blatam_kv.config import LOG_LEVELS, STRATEGIES
from blatam_kv.simulation import DEFAULT_CAPACITY, DEFAULT_POLICY

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
    for add in (
        _serve,
        _gateway,
        _demo,
        _remote,
        _config,
        keys_command,
        batch_command,
        _sign,
        _simulate,
        _quality,
        backup_command,
        migrate_command,
        _exchange,
        deploy_command,
        _bench,
        _devices,
        _doctor,
    ):
        add(commands)
    return parser


def _serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="run the service until it is told to stop")
    config_flag(serve)
    serve.add_argument(
        "--only",
        choices=("export",),
        help=f"one part of it: export renders documents and nothing else (port {EXPORT_PORT})",
    )
    serve.add_argument("--host", dest="api_host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", dest="api_port", help="port; 0 takes a free one (8002)")
    data_dir_flag(serve)
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
    model_flags(serve)
    serve.add_argument("--log-level", help=f"one of {', '.join(LOG_LEVELS)} (info)")


def _gateway(commands: Any) -> None:
    gateway = commands.add_parser("gateway", help="one address in front of BUL and other systems")
    gateway.add_argument("--config", type=Path, metavar="FILE", help="YAML or JSON: the systems")
    gateway.add_argument("--host", metavar="ADDRESS", help="address to listen on (127.0.0.1)")
    gateway.add_argument("--port", type=int, metavar="N", help="port; 0 takes a free one (8000)")
    gateway.add_argument(
        "--check", action="store_true", help="read the configuration, show it, and serve nothing"
    )
    data_dir_flag(gateway)
    json_flag(gateway)


def _demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="write documents through the cache, twice")
    config_flag(demo)
    demo.add_argument(
        "--output", dest="output_directory", metavar="DIR", help="where to (demo-output)"
    )
    json_flag(demo)


def _remote(commands: Any) -> None:
    for name, text in (
        ("stats", "what the running service has done"),
        ("health", "whether the running service is well"),
        ("clear", "forget every cached answer of the running service"),
        ("monitor", "a line every few seconds on how the running service does"),
        ("policy", "which policy decides what leaves the running service's cache"),
        ("pins", "answers that the running service never evicts"),
    ):
        remote = commands.add_parser(name, help=text)
        url_flag(remote)
        config_flag(remote)
        data_dir_flag(remote)
        json_flag(remote)
        if name == "policy":
            remote.add_argument("wanted", nargs="?", metavar="NAME", help="let this one decide")
        if name == "pins":
            one = remote.add_mutually_exclusive_group()
            one.add_argument("--add", metavar="DOCUMENT", help="pin the answer of this document")
            one.add_argument("--remove", metavar="DOCUMENT", help="let go of it")
        if name == "monitor":
            remote.add_argument("--interval", type=float, default=5.0, help="seconds (5)")
            remote.add_argument("--count", type=int, metavar="N", help="lines to print (no end)")


def _config(commands: Any) -> None:
    settings = commands.add_parser("config", help="what the service would run with")
    config_flag(settings)
    data_dir_flag(settings)
    settings.add_argument("--show-origin", action="store_true", help="and who said so")
    json_flag(settings)


def _sign(commands: Any) -> None:
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
    json_flag(sign)


def _simulate(commands: Any) -> None:
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
    json_flag(simulate)


def _quality(commands: Any) -> None:
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
    json_flag(quality)


def _exchange(commands: Any) -> None:
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
        json_flag(command)


def _bench(commands: Any) -> None:
    bench = commands.add_parser("bench", help="the speed tables, or traffic for a service")
    bench.add_argument("names", nargs="*", metavar="NAME", help="tables to run (all)")
    bench.add_argument("--http", metavar="URL", help="instead, send traffic to a running service")
    bench.add_argument("--seconds", type=float, default=10.0, help="of traffic (10)")
    bench.add_argument("--connections", type=int, default=4, help="that ask at once (4)")
    config_flag(bench)
    data_dir_flag(bench)
    json_flag(bench)


def _devices(commands: Any) -> None:
    devices = commands.add_parser("devices", help="the GPUs of this machine and what they do")
    devices.add_argument("--url", help="instead, what the model of a running service runs on")
    devices.add_argument("--watch", action="store_true", help="a line for each, again and again")
    devices.add_argument("--interval", type=float, default=2.0, help="seconds between them (2)")
    devices.add_argument("--count", type=int, metavar="N", help="how often (no end)")
    config_flag(devices)
    data_dir_flag(devices)
    json_flag(devices)


def _doctor(commands: Any) -> None:
    doctor = commands.add_parser("doctor", help="report what this machine has and lacks")
    config_flag(doctor)
    doctor.add_argument("--data-dir", metavar="DIR", help="the data directory to check")
    model_flags(doctor)
    json_flag(doctor)
