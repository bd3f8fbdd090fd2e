"""Flags that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path

from blatam_kv.config import LOCAL_DTYPES, MODELS

DEFAULT_URL = "http://127.0.0.1:8002"


def config_flag(command: argparse.ArgumentParser) -> None:
    """Where settings are written, besides the environment."""
    command.add_argument("--config", type=Path, metavar="FILE", help="YAML or JSON settings")


def data_dir_flag(command: argparse.ArgumentParser) -> None:
    """Where the service keeps what outlives it, a key for this machine's commands among it."""
    command.add_argument("--data-dir", metavar="DIR", help="the data directory of the service")


def url_flag(command: argparse.ArgumentParser) -> None:
    """Which running service is asked."""
    command.add_argument("--url", default=DEFAULT_URL, help=f"the service ({DEFAULT_URL})")


def json_flag(command: argparse.ArgumentParser) -> None:
    """Print for programs, not for people."""
    command.add_argument("--json", action="store_true", help="print JSON")


def model_flags(command: argparse.ArgumentParser) -> None:
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
