"""Settings: who wins, and what a user hears who mistypes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.config import Secret, Settings, load, parse_file
from blatam_kv.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_without_any_source_the_defaults_hold() -> None:
    assert load(environ={}) == Settings()


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "bul: {api_port: 1, cache_ttl: 1, log_level: debug}")
    environ = {"BUL_API_PORT": "2", "BUL_CACHE_TTL": "2"}
    settings = load(file=file, environ=environ, flags={"api_port": "3", "cache_ttl": None})
    assert (settings.api_port, settings.cache_ttl, settings.log_level) == (3, 2.0, "debug")
    assert settings.api_host == Settings().api_host


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    content = {"bul": {"api_port": 9000}, "kv_cache": {"strategy": "LFU", "max_memory_mb": 8}}
    as_json = load(file=write(tmp_path / "c.json", json.dumps(content)), environ={})
    as_yaml = load(
        file=write(
            tmp_path / "c.yml",
            "bul:\n  api_port: 9000\nkv_cache:\n  cache_strategy: lfu\n  max_memory_mb: 8\n",
        ),
        environ={},
    )
    assert as_json == as_yaml
    assert (as_json.cache_strategy, as_json.cache_max_memory_mb) == ("lfu", 8)


def test_ttl_none_keeps_for_ever() -> None:
    assert load(environ={"BUL_CACHE_TTL": "none"}).cache_ttl is None


def test_other_variables_of_the_environment_are_nobodys_business() -> None:
    assert load(environ={"PATH": "/bin", "PORT": "1", "BULLETIN": "x"}) == Settings()


@pytest.mark.parametrize(
    ("environ", "hint"),
    [
        ({"BUL_API_PROT": "1"}, "did you mean BUL_API_PORT?"),
        ({"KV_CACHE_STRATGY": "lru"}, "did you mean KV_CACHE_STRATEGY?"),
        ({"BUL_XYZZY": "1"}, "BUL_XYZZY is unknown"),
        ({"KV_CACHE_MAX_TOKENS": "1"}, "KV_CACHE_MAX_TOKENS has no effect in this version"),
        ({"BUL_API_KEY_REQUIRED": "1"}, "no effect"),
        ({"BUL_API_PORT": "eighty"}, "whole number from 0 to 65535, not 'eighty'"),
        ({"BUL_API_PORT": "65536"}, "whole number"),
        ({"BUL_API_HOST": " "}, "not empty"),
        ({"BUL_CACHE_TTL": "-1"}, "above 0"),
        ({"BUL_CACHE_TTL": "nan"}, "above 0"),
        ({"BUL_LOG_LEVEL": "inof"}, "did you mean info?"),
        ({"BUL_MODEL": "opnai"}, "did you mean openai?"),
        ({"BUL_OPENAI_API_KY": "k"}, "did you mean BUL_OPENAI_API_KEY?"),
        ({"BUL_RETRY_ATTEMPTS": "-1"}, "whole number from 0 to 100"),
        ({"BUL_DRAIN_SECONDS": "0"}, "above 0"),
        ({"BUL_CONTINUOUS_MODE": "maybe"}, "must be true or false"),
        ({"DATABASE_URL": ""}, "must be a text that is not empty"),
        ({"BUL_OPENAI_API_KEY_FILE": "/no/such"}, "cannot be read as text (No such file"),
        ({"BUL_OPENAI_READ_TIMEOUT": "none"}, "must be a number of seconds above 0"),
        ({"BUL_OPENAI_CONTEXT_TOKENS": "1"}, "whole number from 64"),
        ({"KV_CACHE_STRATEGY": "paged"}, "not in this version; use one of lru, lfu, fifo"),
        ({"KV_CACHE_STRATEGY": "lur"}, "did you mean lru?"),
    ],
)
def test_bad_environment_is_named_with_its_fix(environ: dict[str, str], hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ=environ)
    assert hint in str(caught.value)
    assert next(iter(environ)) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("bul: {api_prot: 1}", "bul.api_prot is unknown (did you mean bul.api_port?)"),
        ("bull: {api_port: 1}", "unknown section 'bull' (did you mean bul?)"),
        ("api_port: 1", "did you mean bul.api_port?"),
        ("kv_cache: {num_heads: 8}", "kv_cache.num_heads has no effect"),
        ("kv_cache: {max_tokens: 8}", "no effect"),
        ("bul: {api_port: true}", "whole number"),
        ("bul: {api_port: 80.5}", "whole number"),
        ("bul: {api_host: [1]}", "must be a text"),
        ("bul: 3", "bul must hold settings"),
        ("- 1", "must hold sections"),
        ("", "must hold sections"),
        ("bul: {", "not valid YAML"),
        ("bul: !!python/object/apply:os.system [id]", "not valid YAML"),
    ],
)
def test_bad_file_is_named_with_its_fix(tmp_path: Path, text: str, hint: str) -> None:
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load(file=file, environ={})
    assert hint in str(caught.value)
    assert str(file) in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.yaml.*No such file"):
        load(file=tmp_path / "nowhere.yaml", environ={})


def test_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(file=tmp_path / "c.json", environ={})


def test_bad_flag_is_named() -> None:
    with pytest.raises(ConfigError, match="--port must be a whole number"):
        load(environ={}, flags={"api_port": "x"})


# The model behind an endpoint.


def test_an_endpoint_is_chosen_by_any_source(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "bul: {model: openai, openai_base_url: http://h/v1}")
    settings = load(
        file=file,
        environ={"BUL_OPENAI_API_KEY": "k", "BUL_OPENAI_TOTAL_TIMEOUT": "9"},
        flags={"openai_model": "m"},
    )
    assert (settings.model, settings.openai_base_url) == ("openai", "http://h/v1")
    assert (settings.openai_model, settings.openai_total_timeout) == ("m", 9.0)
    assert settings.openai_api_key == Secret("k")


def test_the_originals_name_of_the_database_holds_where_ours_is_not_set() -> None:
    theirs, ours = {"DATABASE_URL": "sqlite:///a"}, {"BUL_DATABASE_URL": "sqlite:///b"}
    assert load(environ=theirs).database_url == Secret("sqlite:///a")
    assert load(environ=theirs | ours).database_url == Secret("sqlite:///b")
    assert "sqlite" not in str(load(environ=ours))


def test_the_key_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    key = write(tmp_path / "key", "sk-1\n")
    assert load(environ={"BUL_OPENAI_API_KEY_FILE": str(key)}).openai_api_key == Secret("sk-1")
    with pytest.raises(ConfigError, match="names an empty file"):
        load(environ={"BUL_OPENAI_API_KEY_FILE": str(write(tmp_path / "empty", " \n"))})
    with pytest.raises(ConfigError, match="a second time"):
        load(environ={"BUL_OPENAI_API_KEY_FILE": str(key), "BUL_OPENAI_API_KEY": "sk-2"})


def test_a_key_of_the_wrong_kind_is_not_repeated(tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", '{"bul": {"openai_api_key": [4711]}}')
    with pytest.raises(ConfigError, match=r"openai_api_key must be a text that is not empty$"):
        load(file=file, environ={})


def test_an_endpoint_for_a_model_that_ignores_it_is_an_error() -> None:
    environ = {"BUL_OPENAI_BASE_URL": "http://h/v1"}
    with pytest.raises(ConfigError, match="--model openai"):
        load(environ=environ)
    assert load(environ=environ | {"BUL_MODEL": "mini"}).model == "mini"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["api_port", "cache_ttl", "strategy", "api_host", "data_dir", "x"])


@given(st.dictionaries(st.sampled_from(["bul", "kv_cache"]), st.dictionaries(KEYS, JSON)) | JSON)
def test_any_json_is_settings_or_a_config_error(document: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder) / "c.json", json.dumps(document))
        try:
            outcome = str(load(file=file, environ={}))
        except ConfigError as error:
            outcome = str(error)
        assert outcome.startswith(("Settings(", str(file)))


def test_what_prompts_leave_can_be_bounded_and_switched_off() -> None:
    environ = {"BUL_KV_MEMORY_MB": "0", "BUL_KV_DISK_MB": "64", "BUL_KV_CODEC": "exp4"}
    settings = load(environ=environ, flags={"kv_policy": "lfu"})
    found = (settings.kv_memory_mb, settings.kv_disk_mb, settings.kv_codec, settings.kv_policy)
    assert found == (0, 64, "exp4", "lfu")
    for name, value in (("MEMORY_MB", "-1"), ("DISK_MB", "much"), ("CODEC", "zip")):
        with pytest.raises(ConfigError, match=f"BUL_KV_{name}"):
            load(environ={f"BUL_KV_{name}": value})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "bul: {api_port: 1, api_port: 2}"),
        ("c.yaml", "bul: {api_port: 1}\nbul: {api_port: 1}"),
        ("c.json", '{"bul": {"api_port": 1, "api_port": 2}}'),
    ],
)
def test_a_name_that_is_there_twice_is_an_error_and_not_the_last_one(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="is there 2 times; remove all but one"):
        load(file=tmp_path / name, environ={})


def test_what_yaml_merges_is_not_there_twice(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("bul: &all {api_port: 1}\nkv_cache: {}\n")
    assert load(file=file, environ={}).api_port == 1
    file.write_text("x: &x {p: 1}\ny: {<<: *x, p: 2}\n")
    assert parse_file(file) == {"x": {"p": 1}, "y": {"p": 2}}
