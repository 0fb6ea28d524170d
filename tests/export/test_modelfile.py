"""ollama's Modelfile: a conversation as danlu's template writes it, and marks where it must stop."""

import re
from pathlib import Path

import pytest

from danlu.data.chat import Message
from danlu.data.template import ChatTemplate
from danlu.export.modelfile import modelfile
from danlu.export.vocabulary import vocabulary_of
from danlu.tokenizer import TURN_END

SAMPLING = {"temperature": 0.8, "top_p": 0.95, "do_sample": True}


def made(tokenizer, template="own"):
    vocabulary = vocabulary_of(tokenizer, tokenizer.vocab_size, Path("folder"))
    known = tokenizer.chat_template if template == "own" else template
    return modelfile("x.gguf", vocabulary, known, SAMPLING, 512)


def as_go_renders(template, messages):
    """Render the one loop of the template: what Go's text/template makes of `range` and fields."""
    before, body, after = re.fullmatch(r"(.*?){{ range .Messages }}(.*?){{ end }}(.*)", template, re.DOTALL).groups()
    turns = (body.replace("{{ .Role }}", m.role).replace("{{ .Content }}", m.content) for m in messages)
    return before + "".join(turns) + after


def test_a_conversation_is_written_as_danlu_writes_it(tokenizer):
    text = made(tokenizer.ending_with(TURN_END))
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)[1]
    messages = [Message("system", "短"), Message("user", "你好"), Message("assistant", "好"), Message("user", "再见")]
    assert as_go_renders(template, messages) == ChatTemplate(tokenizer).render(messages, add_generation_prompt=True)
    assert not re.search(r"{{(?! range .Messages }}| end }}| .Role }}| .Content }})", template)


def test_it_names_the_file_the_marks_the_draws_and_the_context(tokenizer):
    lines = made(tokenizer.ending_with(TURN_END)).splitlines()
    assert lines[0] == "FROM ./x.gguf"
    assert [line for line in lines if line.startswith("PARAMETER")] == [
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<|endoftext|>"',
        "PARAMETER temperature 0.8",
        "PARAMETER top_p 0.95",
        "PARAMETER num_ctx 512",
    ]


def test_a_model_that_was_not_taught_to_answer_continues_the_prompt(tokenizer):
    assert 'TEMPLATE """{{ .Prompt }}"""' in made(tokenizer)


@pytest.mark.parametrize("template", ["{{ messages }}", None])
def test_a_template_that_is_not_danlus_is_left_to_the_gguf(template, tokenizer):
    assert "TEMPLATE" not in made(tokenizer.ending_with(TURN_END), template)
