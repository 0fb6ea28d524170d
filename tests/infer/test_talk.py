"""A talk: every answer sees what was said before, old turns make room, an interrupted answer counts as far as said."""

import pytest
import torch

from danlu.config import ArticleConfig
from danlu.data.chat import Message
from danlu.data.template import ChatTemplate
from danlu.errors import DataError
from danlu.infer.generate import generate
from danlu.infer.sampling import Sampling
from danlu.infer.talk import Talk
from danlu.model import build_model

CONTEXT = 128
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def model(random_model):
    return random_model


@pytest.fixture(scope="module")
def template(tokenizer):
    return ChatTemplate(tokenizer)


def talk(model, template, **more):
    return Talk(model, template, **{"max_new_tokens": 3, "sampling": GREEDY, **more})


def test_every_answer_sees_the_system_message_and_all_turns_before(model, template, tokenizer):
    spoken = talk(model, template, system="答")
    first, second = spoken.ask("长江"), spoken.ask("北京")
    turns = [Message("system", "答"), Message("user", "长江"), Message("assistant", first.texts[0])]
    asked = [*turns, Message("user", "北京")]
    expected = generate(model, tokenizer, template.prompt(asked), sampling=GREEDY, max_new_tokens=3)
    assert second.texts == expected.texts
    assert spoken.turns == [*asked[1:], Message("assistant", second.texts[0])]


def test_pieces_come_as_they_are_made_and_are_the_answer(model, template):
    pieces = []
    done = talk(model, template, max_new_tokens=8).ask("长江", pieces.append)
    assert len(pieces) > 1
    assert "".join(pieces) == done.texts[0]


def test_a_reset_forgets_the_turns_and_begins_the_draws_anew(model, template):
    spoken = talk(model, template, sampling=Sampling(temperature=1.0), max_new_tokens=8, system="答")
    first, second = spoken.ask("长江").texts, spoken.ask("长江").texts
    spoken.reset()
    assert (spoken.turns, spoken.system) == ([], "答")
    assert spoken.ask("长江").texts == first != second


def test_the_oldest_turns_make_room_and_the_system_message_stays(model, template, tokenizer, capsys):
    spoken = talk(model, template, system="答")
    said = []
    while "forgotten" not in capsys.readouterr().err:
        assert len(said) < 10
        said.append(f"第{len(said)}问")
        done = spoken.ask(said[-1])
        prompt = tokenizer.encode(done.prompt)
        assert done.prompt.startswith("<|im_start|>system\n答<|im_end|>")
    assert [m.content for m in spoken.turns if m.role == "user"] == said[1:]
    assert said[0] not in done.prompt
    assert said[1] in done.prompt
    assert len(prompt) > CONTEXT // 4


def test_room_is_kept_for_the_answer(model, template):
    spoken = talk(model, template, max_new_tokens=CONTEXT)
    for number in range(4):
        done = spoken.ask(f"第{number}问")
        assert done.tokens >= CONTEXT // 4


def test_a_question_that_does_not_fit_alone_is_refused_and_the_talk_goes_on(model, template):
    spoken = talk(model, template)
    spoken.ask("长江")
    before = list(spoken.turns)
    with pytest.raises(DataError, match=r"the question has \d+ tokens .* context holds 128\. Ask a shorter one"):
        spoken.ask("山" * 200)
    assert spoken.turns == before
    assert spoken.ask("北京").texts[0]


def test_an_interrupted_answer_is_kept_as_far_as_said(model, template):
    spoken = talk(model, template, max_new_tokens=20)
    pieces = []

    def stop_after_two(piece):
        pieces.append(piece)
        if len(pieces) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spoken.ask("长江", stop_after_two)
    assert spoken.turns == [Message("user", "长江"), Message("assistant", "".join(pieces))]
    assert spoken.ask("北京").texts[0]


def test_an_answer_ends_where_the_template_ends_a_turn_and_an_empty_one_is_not_kept(template, tokenizer):
    model = build_model(ArticleConfig(hidden_size=32, num_attention_heads=4), tokenizer.vocab_size, 64)
    with torch.no_grad():
        model.language_model_out_linear_layer.bias[tokenizer.special_ids["<|im_end|>"]] = 1_000.0
    spoken = talk(model, template)
    done = spoken.ask("长江")
    assert (done.texts, done.stopped, spoken.turns) == ([""], ["eos"], [])
