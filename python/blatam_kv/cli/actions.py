"""The commands that have actions, each with flags of its own: keys, batch, backup, migrate, deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blatam_kv.cli.flags import config_flag, data_dir_flag, json_flag, url_flag


def keys_command(commands: Any) -> None:
    """Who may ask."""
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
        config_flag(action)
        data_dir_flag(action)
        json_flag(action)


def batch_command(commands: Any) -> None:
    """Lists of documents."""
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
        url_flag(action)
        config_flag(action)
        data_dir_flag(action)
        json_flag(action)


def backup_command(commands: Any) -> None:
    """Copies of a cache."""
    backup = commands.add_parser("backup", help="copies of a cache, and back")
    actions = backup.add_subparsers(dest="action", required=True, metavar="ACTION")
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
        json_flag(command)


def migrate_command(commands: Any) -> None:
    """The caches of the original."""
    migrate = commands.add_parser("migrate", help="from the original's caches, and back")
    actions = migrate.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="what a folder holds")
    up = actions.add_parser("up", help="bring it to this version: all steps or none")
    down = actions.add_parser("down", help="go back to what was there, byte for byte")
    for command in (status, up, down):
        command.add_argument("folder", type=Path, metavar="DIR", help="settings and data")
        json_flag(command)
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


def deploy_command(commands: Any) -> None:
    """What stands around the service."""
    deploy = commands.add_parser("deploy", help="configurations for the servers around it")
    actions = deploy.add_subparsers(dest="action", required=True, metavar="SERVER")
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
