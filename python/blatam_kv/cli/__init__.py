"""The command ``blatam-kv``. Each subcommand's module is imported when it runs.

Exit status: 0 ok, 1 a check or a job failed, 2 wrong usage or configuration, 3 nobody answers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from blatam_kv import __version__
from blatam_kv.cli.parser import EXPORT_PORT, make_parser
from blatam_kv.config import Settings, load
from blatam_kv.errors import ConfigError, Error, InvalidRequest
from blatam_kv.simulation import DEFAULT_POLICY

OK, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Wrong usage exits at once with 2."""
    args = make_parser().parse_args(argv)
    try:
        return _run(args)
    except (ConfigError, InvalidRequest) as error:
        return _complain(error, USAGE)
    except Error as error:
        from blatam_kv.client import Unreachable

        return _complain(error, UNREACHABLE if isinstance(error, Unreachable) else FAILED)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away, as in `blatam-kv stats | head`.
        sys.stderr.close()
        return FAILED
    except OSError as error:  # a full disk, a folder that may not be written
        return _complain(error, FAILED)


def _complain(error: Exception, status: int) -> int:
    print(f"blatam-kv: {error}", file=sys.stderr)
    return status


def _run(args: argparse.Namespace) -> int:
    match args.command:
        case "serve":
            return _serve(args)
        case "gateway":
            from blatam_kv.cli.gateway import gateway

            settings = load(flags={"data_dir": args.data_dir})
            return gateway(
                settings,
                file=args.config,
                host=args.host,
                port=args.port,
                check=args.check,
                as_json=args.json,
            )
        case "demo":
            from blatam_kv.cli.demo import demo

            settings = _settings(args)
            return demo(settings.output_directory, config=args.config, as_json=args.json)
        case "stats":
            from blatam_kv.cli.remote import stats

            return stats(args.url, _settings(args), as_json=args.json)
        case "health":
            from blatam_kv.cli.remote import health

            return health(args.url, _settings(args), as_json=args.json)
        case "clear":
            from blatam_kv.cli.remote import clear

            return clear(args.url, _settings(args), as_json=args.json)
        case "policy":
            from blatam_kv.cli.steering import policy

            return policy(args.url, _settings(args), wanted=args.wanted, as_json=args.json)
        case "pins":
            return _pins(args)
        case "monitor":
            from blatam_kv.cli.monitor import monitor

            return monitor(
                args.url,
                _settings(args),
                interval=args.interval,
                count=args.count,
                as_json=args.json,
            )
        case "config":
            from blatam_kv.cli.settings import config

            origins: dict[str, str] = {}
            settings = _settings(args, origins)
            return config(settings, origins, show_origin=args.show_origin, as_json=args.json)
        case "batch":
            return _batch(args)
        case "keys":
            return _keys(args)
        case "sign":
            from blatam_kv.cli.keys import sign

            return sign(
                args.method,
                args.url,
                key_id=args.key_id,
                data=args.data,
                content_type=args.content_type,
                as_json=args.json,
            )
        case "simulate":
            from blatam_kv.cli.simulate import simulate

            return simulate(
                args.trace,
                policies=args.policy or [DEFAULT_POLICY],
                capacities=args.capacity,
                sizes=args.sizes,
                column=args.column,
                size_column=args.size_column,
                as_json=args.json,
                plot=args.plot,
                quiet=args.quiet,
            )
        case "quality":
            from blatam_kv.cli.quality import quality

            return quality(
                names=args.codec or [],
                model=args.model,
                file=args.kv,
                as_json=args.json,
                plot=args.plot,
            )
        case "backup":
            return _backup(args)
        case "migrate":
            return _migrate(args)
        case "export":
            from blatam_kv.cli.exchange import export_cache

            return export_cache(
                args.source,
                args.target,
                format=args.format,
                quiet=args.quiet,
                as_json=args.json,
            )
        case "import":
            from blatam_kv.cli.exchange import import_cache

            return import_cache(
                args.source,
                args.target,
                disk_bytes=args.disk_bytes,
                quiet=args.quiet,
                as_json=args.json,
            )
        case "devices":
            from blatam_kv.cli import devices

            if args.watch:
                return devices.watch(
                    args.url,
                    _settings(args),
                    interval=args.interval,
                    count=args.count,
                    as_json=args.json,
                )
            if args.url is not None:
                return devices.devices_of(args.url, _settings(args), as_json=args.json)
            return devices.devices(as_json=args.json)
        case "deploy":
            from blatam_kv.cli.deploy import deploy

            return deploy(args)
        case "bench" if args.http is not None:
            from blatam_kv.cli.traffic import traffic

            return traffic(
                args.http,
                _settings(args),
                seconds=args.seconds,
                connections=args.connections,
                as_json=args.json,
            )
        case "bench":
            from blatam_kv.cli.bench import bench

            return bench(args.names)
        case _:
            from blatam_kv.cli.doctor import doctor

            return doctor(_settings(args), as_json=args.json)


def _pins(args: argparse.Namespace) -> int:
    from blatam_kv.cli import steering

    settings = _settings(args)
    if args.add is not None:
        return steering.pin(args.url, settings, document_id=args.add, as_json=args.json)
    if args.remove is not None:
        return steering.unpin(args.url, settings, document_id=args.remove, as_json=args.json)
    return steering.pins(args.url, settings, as_json=args.json)


def _backup(args: argparse.Namespace) -> int:
    from blatam_kv.cli import backup

    match args.action:
        case "create":
            return backup.create_backup(
                args.source,
                args.root,
                compress=args.compress,
                key_file=args.key_file,
                keep=args.keep,
                days=args.days,
                as_json=args.json,
            )
        case "list":
            return backup.list_backups(args.root, as_json=args.json)
        case "verify":
            return backup.verify_backup(args.path, key_file=args.key_file, as_json=args.json)
        case _:
            return backup.restore_backup(
                args.path,
                args.target,
                tags=args.tags,
                key_file=args.key_file,
                as_json=args.json,
            )


def _migrate(args: argparse.Namespace) -> int:
    from blatam_kv.cli import migrate

    match args.action:
        case "status":
            return migrate.migrate_status(args.folder, as_json=args.json)
        case "up":
            return migrate.migrate_up(
                args.folder,
                database=args.database,
                dry_run=args.dry_run,
                disk_bytes=args.disk_bytes,
                quiet=args.quiet,
                as_json=args.json,
            )
        case _:
            return migrate.migrate_down(args.folder, dry_run=args.dry_run, as_json=args.json)


def _batch(args: argparse.Namespace) -> int:
    from blatam_kv.cli import batch

    settings = _settings(args)
    match args.action:
        case "submit":
            return batch.submit(
                args.url,
                settings,
                args.file,
                priority=args.priority,
                callback_url=args.callback_url,
                output=args.output,
                wait=not args.no_wait,
                as_json=args.json,
            )
        case "follow":
            return batch.follow(
                args.url, settings, args.batch, output=args.output, as_json=args.json
            )
        case _:
            return batch.cancel(args.url, settings, args.batch, as_json=args.json)


def _keys(args: argparse.Namespace) -> int:
    from blatam_kv.cli import keys

    settings = _settings(args)
    match args.action:
        case "create":
            return keys.create(
                settings,
                args.tenant,
                role=args.role,
                networks=args.allow or [],
                rate=args.rate,
                days=args.days,
                as_json=args.json,
            )
        case "rotate":
            return keys.rotate(settings, args.key, overlap_seconds=args.overlap, as_json=args.json)
        case "revoke":
            return keys.revoke(settings, args.key, as_json=args.json)
        case _:
            return keys.list_keys(settings, as_json=args.json)


def _serve(args: argparse.Namespace) -> int:
    from blatam_kv.server.serve import need_libraries, serve

    origins: dict[str, str] = {}
    settings = _settings(args, origins)
    if args.only is None:
        return serve(settings, version=__version__)
    need_libraries()
    from blatam_kv.server.serve_export import serve_export

    if "api_port" not in origins:
        settings = replace(settings, api_port=EXPORT_PORT)
    return serve_export(settings, version=__version__)


def _settings(args: argparse.Namespace, origins: dict[str, str] | None = None) -> Settings:
    """Settings with the flags this command has; a flag's dest is the name of its setting."""
    flags = {name: value for name, value in vars(args).items() if name in Settings.__slots__}
    return load(file=args.config, flags=flags, origins=origins)
