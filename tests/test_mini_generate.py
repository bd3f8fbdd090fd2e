"""Answers: sampled from the network and nothing else, streamed as generated, stored and reused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from mini_models import TINY, DictStore, noise, write, write_tiny

from blatam_kv.errors import InvalidRequest
from blatam_kv.truthgpt.brief import Brief
from blatam_kv.truthgpt.decoder import Decoder, Memory
from blatam_kv.truthgpt.mini import Mini
from blatam_kv.truthgpt.protocol import Completion, Message, Sampling
from blatam_kv.truthgpt.sampler import Sampler, third_times

COMPANY, SUBJECT = "Pellizcos del Duero", "sillas ergonómicas"
BRIEF = Brief(
    query=f"Necesito una propuesta comercial sobre {SUBJECT}",
    document_type="sales_proposal",
    business_area="sales",
    company_name=COMPANY,
    industry="muebles de oficina",
    company_size="pequeña",
    target_audience="directores de compras de empresas con más de doscientas personas",
)
MESSAGES = BRIEF.messages()
SHORT = Sampling(max_tokens=60, seed=5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    return Mini(weights=write_tiny(tmp_path_factory.mktemp("tiny") / "m"))


@pytest.fixture(scope="module")
def shipped() -> Mini:
    return Mini()


@pytest.fixture(scope="module")
def answer(shipped: Mini) -> Completion:
    return shipped.generate(MESSAGES, sampling=SHORT)


def by_hand(model: Mini, messages: list[Message], sampling: Sampling) -> str:
    """The answer put together from decoder and sampler: all the text a network may give."""
    tokenizer, decoder = model.weights.tokenizer, Decoder(model.weights)
    prompt = model.encode(messages)
    memory = Memory.reserve(model.weights.shape, len(prompt) + sampling.max_tokens)
    sampler = Sampler(sampling)
    logits = decoder.prefill(prompt, memory, 0)
    tokens: list[int] = []
    while len(tokens) < sampling.max_tokens:
        specials = (tokenizer.bos, tokenizer.system, tokenizer.user, tokenizer.assistant)
        for special in specials:
            logits[special] = -np.inf
        logits[third_times(tokens, tokenizer.has_letter)] = -np.inf
        token = sampler.choose(logits)
        if token == tokenizer.end:
            break
        tokens.append(token)
        logits = decoder.step(token, len(prompt) + len(tokens) - 1, memory)
    return tokenizer.decode(tokens)


# ---- the network alone decides ------------------------------------------------------------------


def test_every_character_is_sampled(shipped: Mini, tiny: Mini, answer: Completion) -> None:
    assert answer.text == by_hand(shipped, MESSAGES, SHORT)
    for seed in range(4):
        sampling = Sampling(max_tokens=90, seed=seed, temperature=1.0)
        text = tiny.generate(MESSAGES[1:], sampling=sampling).text
        assert text == by_hand(tiny, MESSAGES[1:], sampling)


def test_noise_in_the_weights_is_noise_in_the_answer(shipped: Mini, tmp_path: Path) -> None:
    weights = shipped.weights
    shape = json.dumps(asdict(weights.shape))
    tensors = noise(weights.shape, size=0.05)
    path = write(tmp_path / "noise", tensors, shape=shape, merges=weights.metadata["merges"])
    sampling = Sampling(max_tokens=120)
    text = Mini(weights=path).generate(MESSAGES, sampling=sampling).text
    assert COMPANY not in text
    assert SUBJECT not in text

    def surprise(answer: str) -> float:
        """Nats a token that the trained network finds in an answer."""
        prompt, ids = shipped.encode(MESSAGES).tolist(), weights.tokenizer.encode(answer)
        logits = Decoder(weights).all_logits(np.array(prompt + ids, np.int32))[len(prompt) - 1 : -1]
        wide = logits.astype(np.float64)
        chosen = wide[np.arange(len(ids)), ids]
        return float((np.log(np.exp(wide).sum(axis=1)) - chosen).mean())

    # 7.6 is the surprise of a die with one face a token.
    assert surprise(text) > 6
    assert surprise(shipped.generate(MESSAGES, sampling=sampling).text) < 1


def test_a_seed_decides_the_answer(shipped: Mini, answer: Completion) -> None:
    assert shipped.generate(MESSAGES, sampling=SHORT) == answer
    assert Mini().generate(MESSAGES, sampling=SHORT) == answer
    others = {shipped.generate(MESSAGES, sampling=replace(SHORT, seed=s)).text for s in range(6, 9)}
    assert len(others | {answer.text}) == 4


def test_greedy_answers_need_no_seed(shipped: Mini) -> None:
    greedy = Sampling(max_tokens=30, temperature=0.0)
    first = shipped.generate(MESSAGES, sampling=greedy)
    assert shipped.generate(MESSAGES, sampling=replace(greedy, seed=9)) == first


def test_threads_get_the_answers_that_one_gets(shipped: Mini) -> None:
    samplings = [replace(SHORT, seed=seed) for seed in range(4)]
    alone = [shipped.generate(MESSAGES, sampling=s) for s in samplings]
    store = DictStore()
    model = Mini(store)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda s: model.generate(MESSAGES, sampling=s), samplings))
    assert [a.text for a in together] == [a.text for a in alone]


# ---- streaming and stopping ---------------------------------------------------------------------


@pytest.mark.parametrize("stop", [(), ("\n\n",), ("absent",)])
def test_a_stream_is_the_answer_in_pieces(shipped: Mini, stop: tuple[str, ...]) -> None:
    sampling = replace(SHORT, stop=stop)
    whole = shipped.generate(MESSAGES, sampling=sampling)
    chunks = list(shipped.stream(MESSAGES, sampling=sampling))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert len(chunks) > 5
    assert all(chunk.text for chunk in chunks[:-1])
    assert {(chunk.finish_reason, chunk.usage) for chunk in chunks[:-1]} == {(None, None)}
    assert (chunks[-1].finish_reason, chunks[-1].usage) == (whole.finish_reason, whole.usage)


def test_bytes_that_are_half_a_character_never_reach_a_piece(tiny: Mini) -> None:
    # Noise gives bytes that are seldom characters; cut anywhere they must still join up.
    sampling = Sampling(max_tokens=200, temperature=1.5, top_p=1.0)
    chunks = list(tiny.stream(MESSAGES[1:], sampling=sampling))
    text = "".join(chunk.text for chunk in chunks)
    assert text == tiny.generate(MESSAGES[1:], sampling=sampling).text
    assert text == by_hand(tiny, MESSAGES[1:], sampling)
    assert "�" in text


def test_a_stop_string_ends_the_answer_and_is_not_in_it(shipped: Mini, answer: Completion) -> None:
    for begin, end in ((1, 2), (10, 14), (20, 45), (len(answer.text) - 3, len(answer.text))):
        stop = answer.text[begin:end]
        sampling = replace(SHORT, stop=("never written", stop))
        stopped = shipped.generate(MESSAGES, sampling=sampling)
        assert stopped.text == answer.text[: answer.text.index(stop)]
        assert stopped.finish_reason == "stop"
        assert stopped.usage.completion_tokens <= answer.usage.completion_tokens
        pieces = [chunk.text for chunk in shipped.stream(MESSAGES, sampling=sampling)]
        assert "".join(pieces) == stopped.text


def test_an_answer_ends_by_itself_or_at_the_limit(shipped: Mini, answer: Completion) -> None:
    assert answer.finish_reason == "length"
    assert answer.usage.completion_tokens == 60
    assert answer.usage.prompt_tokens == shipped.count_tokens(MESSAGES)
    ended = shipped.generate(MESSAGES, sampling=replace(SHORT, max_tokens=1500))
    assert ended.finish_reason == "stop"
    assert ended.usage.completion_tokens < 1500
    assert ended.text.startswith(answer.text)


# ---- the context --------------------------------------------------------------------------------


def test_a_prompt_without_room_is_refused_before_the_first_piece(shipped: Mini) -> None:
    long = [Message("user", "kites and other things " * 2000)]
    count = shipped.count_tokens(long)
    assert count > 4096
    with pytest.raises(InvalidRequest, match=rf"{count} tokens.*4096"):
        shipped.stream(long, sampling=SHORT)
    with pytest.raises(InvalidRequest, match="Shorten"):
        shipped.generate(long, sampling=SHORT)


def test_the_last_free_token_can_be_used_and_no_more(tiny: Mini) -> None:
    around = tiny.count_tokens([Message("user", "")])

    def fill(tokens: int) -> list[Message]:
        return [Message("user", "x" * (tokens - around))]

    wild = Sampling(temperature=2.0, top_p=1.0, max_tokens=9)
    assert tiny.count_tokens(fill(TINY.context - 1)) == TINY.context - 1
    last = tiny.generate(fill(TINY.context - 1), sampling=wild)
    assert last.usage.completion_tokens <= 1
    several = tiny.generate(fill(TINY.context - 4), sampling=wild)
    assert several.usage.prompt_tokens + several.usage.completion_tokens <= TINY.context
    with pytest.raises(InvalidRequest, match=f"{TINY.context} tokens"):
        tiny.generate(fill(TINY.context), sampling=wild)


def test_messages_that_cannot_be_are_refused(tiny: Mini) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        tiny.count_tokens([])
    with pytest.raises(InvalidRequest, match="'tool'"):
        tiny.encode([Message("tool", "x")])  # type: ignore[arg-type]


def test_a_tenant_begins_where_its_own_prompts_did_and_nobody_elses() -> None:
    store = DictStore()
    model = Mini(store)
    first = model.generate(MESSAGES, sampling=SHORT, salt=b"ana")
    assert model.generate(MESSAGES, sampling=SHORT, salt=b"ben").usage.cached_tokens == 0
    assert model.generate(MESSAGES, sampling=SHORT).usage.cached_tokens == 0
    again = model.generate(MESSAGES, sampling=SHORT, salt=b"ana")
    assert again.usage.cached_tokens > 0
    assert again.text == first.text


# ---- with a store -------------------------------------------------------------------------------


def test_a_stored_prompt_is_not_computed_again_and_the_answer_is_the_same(
    shipped: Mini, answer: Completion
) -> None:
    store = DictStore()
    model = Mini(store)
    prompt = shipped.count_tokens(MESSAGES)
    assert prompt > 64
    first = model.generate(MESSAGES, sampling=SHORT)
    assert first == answer
    assert store.saves == [prompt // 64 * 64]
    second = model.generate(MESSAGES, sampling=SHORT)
    assert second.text == answer.text
    assert second.usage.cached_tokens == (prompt - 1) // 64 * 64
    assert store.saves == [prompt // 64 * 64]  # nothing new, so nothing is stored again
    assert store.computed == [prompt, prompt - prompt // 64 * 64]


def test_only_whole_blocks_of_the_prompt_are_stored(tiny: Mini, tmp_path: Path) -> None:
    for extra in (0, 1, 63):
        store = DictStore()
        model = Mini(store, weights=write_tiny(tmp_path / "m"))
        around = tiny.count_tokens([Message("user", "")])
        messages = [Message("user", "y" * (128 - around + extra))]
        tokens = tiny.encode(messages)
        assert len(tokens) == 128 + extra
        model.generate(messages, sampling=Sampling(max_tokens=80))
        whole = tiny.prefill(tokens)
        assert sorted(map(len, store.blocks)) == [64, 128]
        for known, (keys, values) in store.blocks.items():
            block = slice(len(known) - 64, len(known))
            assert keys.tobytes() == whole.keys[:, block].tobytes()
            assert values.tobytes() == whole.values[:, block].tobytes()


def test_documents_of_one_company_share_what_they_have_in_common() -> None:
    store = DictStore()
    briefing = "\n".join(f"Fact {i}: the house was founded on a hill of grain." for i in range(30))
    company = [Message("system", briefing)]
    for number, query in enumerate(("Plan for kites", "Contract for kites", "Kites")):
        messages = [*company, Message("user", query)]
        with_store = Mini(store).generate(messages, sampling=SHORT)
        assert with_store.text == Mini().generate(messages, sampling=SHORT).text
        assert (with_store.usage.cached_tokens > 256) == (number > 0)


def test_blocks_that_go_away_meanwhile_are_computed(shipped: Mini, answer: Completion) -> None:
    store = DictStore()
    model = Mini(store)
    model.generate(MESSAGES, sampling=SHORT)
    store.lose_after_match = True
    again = model.generate(MESSAGES, sampling=SHORT)
    assert again.text == answer.text
    assert again.usage.cached_tokens == store.loads[-1] < (shipped.count_tokens(MESSAGES) - 1)


def test_an_answer_that_was_begun_is_gone_on_with_as_if_it_had_never_stopped(
    shipped: Mini,
) -> None:
    greedy = Sampling(max_tokens=70, temperature=0.0)
    whole = shipped.generate(MESSAGES, sampling=greedy).text
    begun, _, rest = whole.partition("\n\n")
    pieces = list(shipped.resume(MESSAGES, begun, sampling=greedy))
    more = "".join(piece.text for piece in pieces)
    assert more.startswith(f"\n\n{rest}")
    assert pieces[-1].usage is not None
    begun_tokens = len(shipped.weights.tokenizer.encode(begun))
    assert pieces[-1].usage.prompt_tokens == shipped.count_tokens(MESSAGES) + begun_tokens


def test_a_beginning_that_leaves_no_room_is_refused(tiny: Mini) -> None:
    with pytest.raises(InvalidRequest, match="holds"):
        tiny.resume(MESSAGES, "word " * 5000, sampling=SHORT)


def test_a_document_by_sections_reads_each_beginning_once(shipped: Mini) -> None:
    store = DictStore()
    model = Mini(store)
    begun = "# Propuesta comercial\n\n## Presentación\n\n" + "La propuesta es clara. " * 12
    list(model.resume(MESSAGES, begun, sampling=SHORT))
    again = list(model.resume(MESSAGES, f"{begun}\n\n## Solución\n\n", sampling=SHORT))[-1]
    alone = list(shipped.resume(MESSAGES, f"{begun}\n\n## Solución\n\n", sampling=SHORT))[-1]
    assert again.usage is not None
    assert again.usage.cached_tokens >= shipped.count_tokens(MESSAGES) // 64 * 64 > 0
    assert again.text == alone.text
