"""The real OpenAI client, sync and async, whole and streamed, against what the engine and the model say themselves."""

import asyncio

import openai
import pytest
import torch

from danlu.config import ArticleConfig
from danlu.data.chat import Message
from danlu.data.template import ChatTemplate
from danlu.infer.generate import generate
from danlu.infer.sampling import Sampling
from danlu.model import build_model

QUESTION = [{"role": "user", "content": "长江在哪里？"}]
GREEDY = {"temperature": 0.0, "max_tokens": 12}


def conversation_ids(server, *messages):
    return ChatTemplate(server.tokenizer).prompt([Message(m["role"], m["content"]) for m in messages])


def text_ids(server, text):
    return [server.tokenizer.document_id, *server.tokenizer.encode(text)]


def alone(server, ids, **settings):
    return generate(server.model, server.tokenizer, ids, **{"max_new_tokens": 12, **settings})


def logprobs_of(server, ids):
    """What the model itself says of every id after the first."""
    with torch.inference_mode():
        logits_TV = server.model(torch.tensor([ids])).logits_BTV[0, :, : server.tokenizer.vocab_size].float()
    return logits_TV[:-1].log_softmax(-1)


# Models


def test_the_model_is_listed_and_found(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    card = client.models.retrieve("tiny")
    assert card.owned_by == "danlu"
    assert card.max_model_len == card.danlu["context"] == 128
    with pytest.raises(openai.NotFoundError) as refusal:
        client.models.retrieve("gpt/4")
    assert refusal.value.code == "model_not_found"


# Chat


def test_a_chat_answer_is_what_the_engine_answers(server, client):
    done = client.chat.completions.create(model="tiny", messages=QUESTION, **GREEDY)
    ids = conversation_ids(server, *QUESTION)
    expected = alone(server, ids, sampling=Sampling(temperature=0))
    assert done.choices[0].message.content == expected.texts[0]
    assert done.choices[0].message.role == "assistant"
    assert done.choices[0].finish_reason == "length"
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(ids), expected.tokens)
    assert done.usage.total_tokens == len(ids) + expected.tokens


def test_a_stream_brings_the_same_answer_and_counts(server, client):
    whole = client.chat.completions.create(model="tiny", messages=QUESTION, **GREEDY)
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_answers_are_those_of_the_seed(server, client):
    settings = {"model": "tiny", "messages": QUESTION, "n": 3, "seed": 5, "temperature": 1.0, "top_p": 1.0}
    done = client.chat.completions.create(max_tokens=12, **settings)
    ids = conversation_ids(server, *QUESTION)
    expected = alone(server, ids, samples=3, seed=5, sampling=Sampling(temperature=1.0, top_p=1.0))
    assert [choice.message.content for choice in done.choices] == expected.texts
    assert [choice.index for choice in done.choices] == [0, 1, 2]
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(ids), expected.tokens)
    told = ["", "", ""]
    for chunk in client.chat.completions.create(max_tokens=12, stream=True, **settings):
        told[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert told == expected.texts


def test_without_a_seed_answers_differ(client):
    settings = {"model": "tiny", "messages": QUESTION, "temperature": 2.0, "top_p": 1.0, "max_tokens": 20}
    texts = {client.chat.completions.create(**settings).choices[0].message.content for _ in range(3)}
    assert len(texts) == 3


def test_content_may_be_parts_and_max_tokens_has_two_names(client):
    parts = [{"type": "text", "text": "长江在"}, {"type": "text", "text": "哪里？"}]
    whole = client.chat.completions.create(model="tiny", messages=QUESTION, **GREEDY)
    other = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": parts}], max_completion_tokens=12, temperature=0
    )
    assert other.choices[0].message.content == whole.choices[0].message.content


def test_a_developer_is_the_system(server, client):
    talk = [{"role": "developer", "content": "短"}, *QUESTION]
    done = client.chat.completions.create(model="tiny", messages=talk, **GREEDY)
    ids = conversation_ids(server, {"role": "system", "content": "短"}, *QUESTION)
    assert done.choices[0].message.content == alone(server, ids, sampling=Sampling(temperature=0)).texts[0]


def test_an_answer_of_the_server_can_be_sent_back(client):
    first = client.chat.completions.create(model="tiny", messages=QUESTION, **GREEDY)
    said = first.choices[0].message.model_dump()
    assert client.chat.completions.create(model="tiny", messages=[*QUESTION, said, *QUESTION], max_tokens=2).choices


@pytest.mark.parametrize("listed", [False, True])
def test_a_stop_string_ends_the_text_before_it(client, listed):
    whole = client.chat.completions.create(model="tiny", messages=QUESTION, **GREEDY).choices[0].message.content
    stop = whole[3:5]
    settings = {"model": "tiny", "messages": QUESTION, "stop": ["不会有的话", stop] if listed else stop, **GREEDY}
    done = client.chat.completions.create(**settings)
    assert done.choices[0].message.content == whole[: whole.index(stop)]
    assert done.choices[0].finish_reason == "stop"
    chunks = list(client.chat.completions.create(stream=True, **settings))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole[: whole.index(stop)]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_chat_logprobs_are_the_models_own(server, client):
    done = client.chat.completions.create(
        model="tiny", messages=QUESTION, logprobs=True, top_logprobs=3, seed=1, temperature=1.5, max_tokens=12
    )
    entries = done.choices[0].logprobs.content
    assert len(entries) == done.usage.completion_tokens
    ids = conversation_ids(server, *QUESTION)
    for entry in entries:
        logprobs_V = logprobs_of(server, [*ids, 0])[-1]
        token = next(
            i
            for i in range(server.tokenizer.vocab_size)
            if list(server.tokenizer.token_bytes(i)) == entry.bytes and abs(logprobs_V[i] - entry.logprob) < 1e-4
        )
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(
            logprobs_V.topk(3).values.tolist(), abs=1e-4
        )
        ids.append(token)
    assert (
        b"".join(bytes(entry.bytes) for entry in entries).decode("utf-8", "replace") == done.choices[0].message.content
    )


def test_an_answer_ends_with_the_turn(server, client):
    """Of many drawn hot, some end by the end mark, which is counted and shown among the tokens, but not in the text."""
    done = client.chat.completions.create(
        model="tiny", messages=QUESTION, n=60, seed=0, temperature=2.0, top_p=1.0, logprobs=True, max_tokens=60
    )
    ended = [choice for choice in done.choices if choice.finish_reason == "stop"]
    assert ended
    for choice in ended:
        assert choice.logprobs.content[-1].token in ("<|im_end|>", "<|endoftext|>")
        assert "<|im_end|>" not in choice.message.content
    assert sum(len(choice.logprobs.content) for choice in done.choices) == done.usage.completion_tokens


def test_the_context_is_a_length(server, client):
    ids = conversation_ids(server, *QUESTION)
    done = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0, max_tokens=1_000_000)
    assert done.choices[0].finish_reason == "length"
    assert done.usage.completion_tokens == 128 - len(ids) + 1
    free = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0)
    assert free.choices[0].message.content == done.choices[0].message.content


# Completions


def test_prompts_are_texts_or_ids_one_or_many(server, client):
    texts = ["长江", "北京的冬天"]
    expected = [alone(server, text_ids(server, text), sampling=Sampling(temperature=0)).texts[0] for text in texts]
    ids = [text_ids(server, text) for text in texts]
    for prompt in (texts, ids):
        done = client.completions.create(model="tiny", prompt=prompt, **GREEDY)
        assert [choice.text for choice in done.choices] == expected
        assert done.usage.prompt_tokens == sum(map(len, ids))
    for prompt in (texts[0], ids[0]):
        assert client.completions.create(model="tiny", prompt=prompt, **GREEDY).choices[0].text == expected[0]
    twice = client.completions.create(model="tiny", prompt=texts, n=2, **GREEDY)
    assert [choice.text for choice in twice.choices] == [expected[0], expected[0], expected[1], expected[1]]
    assert twice.usage.prompt_tokens == sum(map(len, ids))


def test_a_completion_streams(client):
    whole = client.completions.create(model="tiny", prompt="长江", echo=True, logprobs=2, **GREEDY)
    chunks = list(client.completions.create(model="tiny", prompt="长江", echo=True, logprobs=2, stream=True, **GREEDY))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        told = [entry for chunk in chunks for entry in getattr(chunk.choices[0].logprobs, name)]
        assert told == getattr(whole.choices[0].logprobs, name)


def test_a_text_is_scored(server, client):
    """With `echo` and no new token: every token of a text with its probability, as the model itself says."""
    text = "长江位于世界最高的山峰。\U0001f600"
    done = client.completions.create(model="tiny", prompt=text, echo=True, max_tokens=0, logprobs=2)
    ids = text_ids(server, text)
    logprobs_TV = logprobs_of(server, ids)
    told = done.choices[0].logprobs
    assert done.choices[0].text == text
    assert done.choices[0].finish_reason == "length"
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(ids), 0)
    expected = [float(row[i]) for row, i in zip(logprobs_TV, ids[1:], strict=True)]
    assert told.token_logprobs == pytest.approx(expected, abs=1e-4)
    for token, own, top, row in zip(told.tokens, told.token_logprobs, told.top_logprobs, logprobs_TV, strict=True):
        assert top[token] == own
        assert sorted(top.values(), reverse=True)[:2] == pytest.approx(row.topk(2).values.tolist(), abs=1e-4)
    raw = b"".join(server.tokenizer.token_bytes(i) for i in ids[1:])
    assert raw.decode() == text
    at = 0
    for i, offset in zip(ids[1:], told.text_offset, strict=True):
        assert offset == len(raw[:at].decode("utf-8", "ignore"))
        at += len(server.tokenizer.token_bytes(i))
    assert "bytes:\\xf0" in told.tokens[-4:]


def test_given_ids_are_scored_as_evaluations_do_it(server, client):
    """One token is drawn and thrown away; of the first id nobody knows a probability."""
    ids = text_ids(server, "长江是一座美丽的城市")
    done = client.completions.create(
        model="tiny", prompt=[ids], echo=True, max_tokens=1, logprobs=1, temperature=0, seed=1
    )
    told = done.choices[0].logprobs
    assert len(told.tokens) == len(ids) + 1
    assert told.token_logprobs[0] is None
    assert told.top_logprobs[0] is None
    expected = [float(row[i]) for row, i in zip(logprobs_of(server, ids), ids[1:], strict=True)]
    assert told.token_logprobs[1:-1] == pytest.approx(expected, abs=1e-4)
    assert told.token_logprobs[-1] == max(told.top_logprobs[-1].values())


def test_settings_beyond_openais(server, client):
    greedy = client.completions.create(model="tiny", prompt="长江", **GREEDY).choices[0].text
    for extra in ({"top_k": 1}, {"min_p": 1.0}):
        done = client.completions.create(model="tiny", prompt="长江", max_tokens=12, temperature=1.5, extra_body=extra)
        assert done.choices[0].text == greedy
    penalties = {"repetition_penalty": 1.5, "no_repeat_ngram": 2}
    done = client.completions.create(
        model="tiny", prompt="长江", presence_penalty=1.0, frequency_penalty=0.5, extra_body=penalties, **GREEDY
    )
    sampling = Sampling(temperature=0, presence_penalty=1.0, frequency_penalty=0.5, **penalties)
    assert done.choices[0].text == alone(server, text_ids(server, "长江"), sampling=sampling).texts[0] != greedy


def test_what_does_no_harm_is_ignored(client):
    harmless = {"user": "me", "metadata": {"a": "b"}, "store": True, "tools": [], "logit_bias": {}, "priority": 1}
    settings = {"response_format": {"type": "text"}, "extra_body": harmless, **GREEDY}
    done = client.chat.completions.create(model="tiny", messages=QUESTION, **settings)
    plain = client.chat.completions.create(model="tiny", messages=QUESTION, **GREEDY)
    assert done.choices[0].message.content == plain.choices[0].message.content


def test_the_async_client_asks_much_at_once(server):
    async def all_answers():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asks = [
                client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": text}], **GREEDY)
                for text in ("一", "二", "三", "四", "五", "六")
            ]
            return [done.choices[0].message.content for done in await asyncio.gather(*asks)]

    expected = [
        alone(server, conversation_ids(server, {"role": "user", "content": text}), sampling=Sampling(temperature=0))
        for text in ("一", "二", "三", "四", "五", "六")
    ]
    assert asyncio.run(all_answers()) == [done.texts[0] for done in expected]


# Models that differ


def test_a_model_that_was_not_taught_reads_plain_lines(serving, random_model, tokenizer):
    with serving(random_model, tokenizer) as server:
        assert server.client.models.retrieve("tiny").danlu["chat"] is False
        talk = [
            {"role": "system", "content": "短"},
            {"role": "user", "content": "一"},
            {"role": "assistant", "content": "二"},
            {"role": "user", "content": "三"},
        ]
        done = server.client.chat.completions.create(model="tiny", messages=talk, **GREEDY)
        ids = text_ids(server, "短\n问：一\n答：二\n问：三\n答：")
        expected = alone(server, ids, sampling=Sampling(temperature=0), stop=("\n问：",))
        assert done.choices[0].message.content == expected.texts[0]
        assert done.usage.prompt_tokens == len(ids)


def test_the_folder_says_how_to_draw_by_default(serving, random_model, taught):
    with serving(random_model, taught, generation={"temperature": 0.0, "top_k": 5}) as server:
        free = server.client.completions.create(model="tiny", prompt="长江", max_tokens=12)
        assert (
            free.choices[0].text == alone(server, text_ids(server, "长江"), sampling=Sampling(temperature=0)).texts[0]
        )


def test_the_articles_model_is_served_too(serving, tokenizer):
    model = build_model(ArticleConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2), 320, 32, seed=0)
    with serving(model, tokenizer) as server:
        done = server.client.completions.create(model="tiny", prompt="长江", max_tokens=1000, temperature=0)
        assert done.choices[0].finish_reason in ("length", "stop")
        assert done.usage.completion_tokens <= 32
