"""The command ``blatam-kv``. Each subcommand's module is imported when it runs.

Exit status: 0 ok, 1 a check or a job failed, 2 wrong usage or configuration, 3 nobody answers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from blatam_kv import __version__
from blatam_kv.codecs import NAMES as CODECS
from blatam_kv.config import LOCAL_DTYPES, LOG_LEVELS, MODELS, STRATEGIES, Settings, load
from blatam_kv.errors import ConfigError, Error, InvalidRequest
from blatam_kv.simulation import DEFAULT_CAPACITY, DEFAULT_POLICY

OK, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3
DEFAULT_URL = "http://127.0.0.1:8002"

_EXAMPLES = """\
examples:
  blatam-kv demo                       documents through the cache, twice, into demo-output/
  blatam-kv serve --port 8002          the service
  blatam-kv serve --model openai --openai-base-url http://127.0.0.1:8000/v1 --openai-model NAME
                                       the service in front of a model server
  blatam-kv serve --model local --local-model models/writer
                                       the service with a transformers model of this machine
  blatam-kv stats --json               what the running service has done
  blatam-kv clear                      forget every cached answer of the running service
  blatam-kv simulate t.u32.xz --policy lru --policy belady --capacity 1%
                                       hit ratios of policies on a trace
  blatam-kv quality --plot codecs.png  what each codec costs in bits and keeps in quality
  blatam-kv bench                      the speed tables
  blatam-kv doctor                     what this machine has and lacks

exit status: 0 ok, 1 failed, 2 wrong usage, 3 the service cannot be reached
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Wrong usage exits at once with 2."""
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except (ConfigError, InvalidRequest) as error:
        return _complain(error, USAGE)
    except Error as error:
        from blatam_kv.cli.client import Unreachable

        return _complain(error, UNREACHABLE if isinstance(error, Unreachable) else FAILED)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away, as in `blatam-kv stats | head`.
        sys.stderr.close()
        return FAILED


def _complain(error: Exception, status: int) -> int:
    print(f"blatam-kv: {error}", file=sys.stderr)
    return status


def _run(args: argparse.Namespace) -> int:
    match args.command:
        case "serve":
            from blatam_kv.server.serve import serve

            return serve(_settings(args), version=__version__)
        case "demo":
            from blatam_kv.cli.demo import demo

            settings = _settings(args)
            return demo(settings.output_directory, config=args.config, as_json=args.json)
        case "stats":
            from blatam_kv.cli.remote import stats

            return stats(args.url, as_json=args.json)
        case "health":
            from blatam_kv.cli.remote import health

            return health(args.url, as_json=args.json)
        case "clear":
            from blatam_kv.cli.remote import clear

            return clear(args.url, as_json=args.json)
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
        case "bench":
            from blatam_kv.cli.bench import bench

            return bench(args.names)
        case _:
            from blatam_kv.cli.doctor import doctor

            return doctor(_settings(args), as_json=args.json)


def _settings(args: argparse.Namespace) -> Settings:
    """Settings with the flags this command has; a flag's dest is the name of its setting."""
    flags = {name: value for name, value in vars(args).items() if name in Settings.__slots__}
    return load(file=args.config, flags=flags)


def _parser() -> argparse.ArgumentParser:
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
    serve.add_argument("--host", dest="api_host", help="loopback address to listen on")
    serve.add_argument("--port", dest="api_port", help="port; 0 takes a free one (8002)")
    serve.add_argument("--cache-strategy", help=f"one of {', '.join(STRATEGIES)} (adaptive)")
    serve.add_argument("--cache-ttl", help="seconds an answer stays fresh, or none (3600)")
    serve.add_argument("--cache-max-memory-mb", help="MiB of answers to keep (256)")
    serve.add_argument("--data-dir", metavar="DIR", help="where state outlives the service")
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
    serve.add_argument("--kv-codec", metavar="NAME", help=f"one of {', '.join(CODECS)} (raw)")
    serve.add_argument("--kv-policy", metavar="NAME", help="what leaves memory first (adaptive)")
    serve.add_argument("--max-concurrent-tasks", help="documents written at a time (2)")
    serve.add_argument("--max-queued-tasks", help="documents that may wait (100)")
    _model_flags(serve)
    serve.add_argument("--log-level", help=f"one of {', '.join(LOG_LEVELS)} (info)")

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
    ):
        remote = commands.add_parser(name, help=text)
        remote.add_argument("--url", default=DEFAULT_URL, help=f"the service ({DEFAULT_URL})")
        _json_flag(remote)

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

    bench = commands.add_parser("bench", help="run the speed tables of the source checkout")
    bench.add_argument("names", nargs="*", metavar="NAME", help="tables to run (all)")

    doctor = commands.add_parser("doctor", help="report what this machine has and lacks")
    _config_flag(doctor)
    doctor.add_argument("--data-dir", metavar="DIR", help="the data directory to check")
    _model_flags(doctor)
    _json_flag(doctor)
    return parser


def _model_flags(command: argparse.ArgumentParser) -> None:
    """What writes. The key has no flag: every user of the machine can read command lines."""
    command.add_argument("--model", help=f"what writes, one of {', '.join(MODELS)} (mini)")
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
        "--openai-base-url",
        metavar="URL",
        help="the endpoint of --model openai, for example http://127.0.0.1:8000/v1; its key goes "
        "into BUL_OPENAI_API_KEY or the file named by BUL_OPENAI_API_KEY_FILE",
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
