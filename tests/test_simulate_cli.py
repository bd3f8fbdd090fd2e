"""``blatam-kv simulate``: what it prints, draws and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import blatam_kv as kv
from blatam_kv import cli

Captured = pytest.CaptureFixture[str]
DATA = Path(__file__).parent / "data"
TRACE = str(DATA / "lirs_sprite.u32.xz")
PROMPTS = str(DATA / "mooncake_synthetic.jsonl.xz")
SIZED = str(DATA / "adaptsize_request.u32.xz")
SIZES = str(DATA / "adaptsize_request.sz.xz")


def run(*arguments: str) -> int:
    return cli.main(["simulate", *arguments])


def test_the_table_has_a_row_a_policy_and_a_column_a_capacity(capsys: Captured) -> None:
    policies, capacities = ["lru", "lfu", "belady"], ["1%", "500", "10%"]
    words = [f"--policy={name}" for name in policies] + [
        f"--capacity={each}" for each in capacities
    ]
    assert run(TRACE, *words) == 0
    trace, summary, empty, *table = capsys.readouterr().out.splitlines()
    assert (trace, empty) == (TRACE, "")
    assert summary == "133,996 requests for 7,075 objects"
    assert [line.split() for line in table[:2]] == [
        ["hit", "ratio,", "%", "1%", "10%"],
        ["capacity", "71", "500", "708"],
    ]
    found = kv.simulate(TRACE, policies, capacities)
    assert [line.split() for line in table[2:]] == [
        [name, *(f"{100 * each.hit_ratio:.2f}" for each in found.results if each.policy == name)]
        for name in policies
    ]
    assert table[1].index("500") + len("500") == table[2].index(table[2].split()[2]) + 5  # aligned


def test_sizes_add_a_table_of_bytes(capsys: Captured) -> None:
    assert run(SIZED, "--sizes", SIZES, "--capacity", "1000000") == 0
    page = capsys.readouterr().out
    (result,) = kv.simulate(SIZED, "adaptive", 1_000_000, sizes=SIZES).results
    assert result.byte_hit_ratio is not None
    hit, byte = page.partition("byte hit ratio, %")[::2]
    assert "hit ratio, %  1,000,000" in hit
    assert f"{100 * result.hit_ratio:.2f}" in hit
    assert f"{100 * result.byte_hit_ratio:.2f}" in byte


def test_prompts_are_counted_in_blocks(capsys: Captured) -> None:
    assert run(PROMPTS) == 0
    assert "121,877 blocks of 3,993 prompts, 43,924 unique" in capsys.readouterr().out


def test_json_holds_what_was_promised(capsys: Captured) -> None:
    assert run(TRACE, "--json", "--policy", "lru", "--policy", "belady", "--capacity", "50") == 0
    report = json.loads(capsys.readouterr().out)
    found = kv.simulate(TRACE, ["lru", "belady"], 50)
    assert report == {
        "trace": TRACE,
        "requests": 133_996,
        "unique": 7_075,
        "results": [
            {
                "policy": each.policy,
                "capacity": 50,
                "requests": 133_996,
                "hits": each.hits,
                "hit_ratio": each.hit_ratio,
            }
            for each in found.results
        ],
    }
    assert run(SIZED, "--json", "--sizes", SIZES) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["byte_hit_ratio"] == result["bytes_hit"] / result["bytes_requested"]


@pytest.mark.parametrize("name", ["a.png", "a.svg", "A.PDF"])
def test_a_plot_is_a_picture_of_all_curves(tmp_path: Path, name: str, capsys: Captured) -> None:
    assert run(TRACE, "--policy", "lru", "--policy", "belady", "--plot", str(tmp_path / name)) == 0
    content = (tmp_path / name).read_bytes()
    assert content.startswith((b"\x89PNG", b"<?xml", b"%PDF"))
    if name.endswith("svg"):
        assert all(word in content for word in (b"<!-- lru -->", b"<!-- belady -->"))
    # Nobody named capacities, so there are enough for a curve.
    assert "0.1%" in capsys.readouterr().out


def test_a_plot_may_have_one_point_and_many_policies(tmp_path: Path) -> None:
    policies = ["lru", "lfu", "fifo", "belady"]
    simulation = kv.simulate([1, 2, 3, 1], policies, 2)
    simulation.plot(tmp_path / "a.png")
    kv.simulate([1, 2, 3], policies, [1, 5]).plot(tmp_path / "nothing-hits.png")
    assert (tmp_path / "nothing-hits.png").exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["/nowhere.u32"], "cannot read /nowhere.u32: No such file"),
        (["trace.lis"], "does not tell its format"),
        ([TRACE, "--policy", "beladi"], "did you mean belady?"),
        ([TRACE, "--capacity", "0"], "capacity must be from 1"),
        ([TRACE, "--capacity", "ten"], "write 10000 or '5%'"),
        ([TRACE, "--sizes", TRACE], "must end in .sz"),
        ([TRACE, "--column", "key"], "are for traces in CSV"),
        (["/nowhere.u32", "--plot", "a.bmp"], "must end in one of"),
        (["/nowhere.u32", "--plot", "/nowhere/a.png"], "no folder /nowhere"),
    ],
)
def test_a_bad_value_ends_with_2_and_names_the_fix(
    arguments: list[str], hint: str, capsys: Captured
) -> None:
    assert run(*arguments) == 2
    assert hint in capsys.readouterr().err


def test_a_plot_that_cannot_be_written_ends_with_2(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "a.png").mkdir()
    assert run(TRACE, "--plot", str(tmp_path / "a.png")) == 2
    assert "cannot write" in capsys.readouterr().err
