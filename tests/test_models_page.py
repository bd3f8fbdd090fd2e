"""docs/MODELS.md keeps its word: its example runs, its table is the settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from blatam_kv.bul.request import parse_request
from blatam_kv.cli.parser import make_parser
from blatam_kv.config import VARIABLES
from blatam_kv.truthgpt import Message, Sampling, TruthGPT

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "MODELS.md").read_text(encoding="utf-8")


def own_model() -> dict[str, Any]:
    """What the page's last Python example defines."""
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[-1], names)
    return names


def test_the_example_is_a_model_that_writes_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # its answers outlive it
    service = own_model()["service"]
    try:
        model = service.model
        assert isinstance(model, TruthGPT)
        messages = [Message("user", "one two three")]
        assert model.generate(messages, sampling=Sampling()).text == "ONE TWO THREE "
        assert model.generate(messages, sampling=Sampling(max_tokens=2)).finish_reason == "length"
        request = parse_request({"query": "a plan for a bakery"})
        order = service.place(request)
        answer, wrote = service.pipeline.write(order)
        assert (answer.text, wrote) == ("A PLAN FOR A BAKERY", True)
        assert service.answer_from_cache(order, request).answer == answer
    finally:
        service.close()


def test_the_tables_name_every_setting_of_the_model_and_its_flag() -> None:
    rows = re.findall(r"^\| `(BUL_\w+)` \| `(\w+)` \| (?:`(--[\w-]+)`|none) \|", PAGE, re.MULTILINE)
    own, single = ("BUL_LOCAL_", "BUL_OPENAI_"), ("BUL_MODEL", "BUL_DEVICES")
    names = {name for name in VARIABLES if name in single or name.startswith(own)}
    assert {variable for variable, _, _ in rows} == names
    parsed = vars(make_parser().parse_args(["serve"]))
    for variable, key, flag in rows:
        assert f"BUL_{key.upper()}" == variable
        assert (key in parsed) == bool(flag)
        assert not flag or flag == "--" + key.replace("_", "-")
