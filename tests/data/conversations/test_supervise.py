"""What is learned is what the assistant said, after what the server would send."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ling.data.chat import CHAT_TEMPLATE, ChatTemplate
from ling.data.conversations.rendered import TrainingTemplate
from ling.data.conversations.supervise import NOT_TRAINED, answers_of, supervise
from ling.data.conversations.types import Conversation, Origin, Preference
from ling.data.sandbox import compile_template, each_cut, render_template
from ling.errors import TemplateError
from ling.serve.conversation import Transcript
from ling.serve.prompts import encode_chat

ORIGIN = Origin(Path("x.jsonl"), 1)
LING = ChatTemplate(CHAT_TEMPLATE)
USER = {"role": "user", "content": "hi"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"a": "<|role_end|>"}}}]
# Reasoning disappears behind a later question; the end mark is followed by a line end.
CHATML = """
{%- for m in messages -%}
{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.reasoning_content and loop.last %}{{ '<think>' + m.reasoning_content + '</think>' }}
{%- endif %}
{{- m.content + '<|role_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
PLAIN = (
    "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '.' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def conversation(*messages, tools=None, in_loss=None):
    said = [m["role"] == "assistant" for m in messages]
    return Conversation(list(messages), tools, in_loss or said, ORIGIN)


def answer(content, **more):
    return {"role": "assistant", "content": content, **more}


def in_process(source):
    """A template of anyone's, in this process: a child for every example would take minutes."""
    template = ChatTemplate(CHAT_TEMPLATE)
    compiled = compile_template(source)
    template.source = source
    template._run = partial(render_template, compiled)
    template._run_cuts = partial(each_cut, template._run)
    return template


def trained_texts(sample):
    return [sample.text[start:end] for start, end in sample.spans]


def learned(sample, tokenizer):
    ids = [label for label in sample.labels if label != NOT_TRAINED]
    return tokenizer.decode(ids, skip_special_tokens=False)


# ---- the property ------------------------------------------------------------------------------

CONTROL = ["<|role_end|>", "<role>", "</role>", "ASSISTANT", "</think>", "<think>", "<tool_call>"]
words = st.lists(
    st.sampled_from([*CONTROL, "<", " ", "\n", "héllo", "你好", "x", "\ufdd0", "🦜"]), max_size=5
).map("".join)
calls = st.lists(
    st.fixed_dictionaries(
        {
            "name": words.map(lambda w: w or "f"),
            "arguments": st.sampled_from(['{"a": 1}', {"a": "<|role_end|>"}, {}]),
        }
    ).map(lambda f: {"type": "function", "function": f}),
    max_size=2,
)
answers = st.builds(
    lambda content, reasoning, calls: answer(
        content,
        **({"reasoning_content": reasoning} if reasoning else {}),
        **({"tool_calls": calls} if calls else {}),
    ),
    words,
    st.none() | words,
    calls,
)
others = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "tool", "system"]),
    words,
)
conversations = st.lists(others | answers, min_size=1, max_size=7)


def sent(template, tokenizer, messages, tools):
    """Text and ids that the server sends for these messages."""
    llm = SimpleNamespace(render=template.render, tokenizer=tokenizer)
    return encode_chat(llm, Transcript(messages=messages, tools=tools))


@pytest.mark.parametrize("source", [CHAT_TEMPLATE, CHATML, PLAIN], ids=["ling", "chatml", "plain"])
@settings(max_examples=60, deadline=None)
@given(messages=conversations, has_tools=st.booleans(), split=st.booleans())
def test_only_what_the_assistant_said_is_learned_after_what_the_server_sends(
    tokenizer, source, messages, has_tools, split
):
    template = ChatTemplate(source) if source == CHAT_TEMPLATE else in_process(source)
    tools = TOOLS if has_tools else None
    samples = supervise(
        conversation(*messages, tools=tools), template, tokenizer, split_turns=split
    )
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    prompts = {i: sent(template, tokenizer, messages[:i], tools) for i in turns}
    ends = {i: template.render(messages[: i + 1], tools, False) for i in turns}
    found = []
    for sample in samples:
        for start, end in sample.spans:
            # A prompt and the turn that follows it, as the server would have read them.
            turn = next(
                i
                for i in turns
                if prompts[i].text == sample.text[:start]
                and sample.text[:end] == ends[i][:end]
                and not ends[i][end:].strip()
            )
            found.append(turn)
            if source == CHAT_TEMPLATE:
                assert sample.ids[: len(prompts[turn].ids)] == prompts[turn].ids
                assert sample.text[start:end].endswith("<|role_end|>")
                assert (
                    messages[turn]["content"].split("</think>")[-1].strip("\n")
                    in (sample.text[start:end])
                )
        # No id is learned but those of the spans, and the end mark only where the template has it.
        if source == CHAT_TEMPLATE:
            assert learned(sample, tokenizer) == "".join(trained_texts(sample))
        assert len(sample.labels) == len(sample.ids)
        assert all(la in (i, NOT_TRAINED) for i, la in zip(sample.ids, sample.labels, strict=True))
        assert tokenizer.decode(sample.ids, skip_special_tokens=False) == sample.text
    assert len(found) == len(set(found))
    if split and source == CHAT_TEMPLATE:
        notes = "".join(note for sample in samples for note in sample.notes)
        left = [i for i in turns if f"messages[{i}] is context only: the template leaves" in notes]
        assert sorted(found + left) == turns  # each exactly once
        # Ling's template has reasoning behind a question only, and no text before `<think>`.
        assert all(
            messages[i].get("reasoning_content") or "</think>" in messages[i]["content"]
            for i in left
        )
    whole = samples[-1]
    if whole.text == template.render(messages, tools, False):
        assert whole.ids == template.encode(tokenizer, messages, tools, False).ids


# ---- single rules ------------------------------------------------------------------------------


def test_one_rendering_is_enough_without_reasoning(tokenizer):
    rendered = []

    class Counting:
        ending, pieces_alone, turn_marks = "", False, staticmethod(LING.turn_marks)

        def render(self, *args, **kwargs):
            rendered.append(args)
            return LING.render(*args, **kwargs)

    template: TrainingTemplate = Counting()
    chat = conversation(USER, answer("a"), USER, answer("b"), tools=TOOLS)
    (sample,) = supervise(chat, template, tokenizer)
    assert len(rendered) == 1
    assert trained_texts(sample) == ["a<|role_end|>", "b<|role_end|>"]
    (slow,) = supervise(chat, in_process(CHAT_TEMPLATE + "{# other #}"), tokenizer)
    assert slow == sample


def test_a_message_of_weight_0_is_context(tokenizer):
    chat = conversation(USER, answer("a"), USER, answer("b"), in_loss=[False] * 3 + [True])
    (sample,) = supervise(chat, LING, tokenizer)
    assert trained_texts(sample) == ["b<|role_end|>"]


def test_turns_whose_reasoning_disappears_are_context_or_samples_of_their_own(tokenizer):
    old, new = answer("a", reasoning_content="old"), answer("b", reasoning_content="new")
    chat = conversation(USER, old, USER, new)
    (sample,) = supervise(chat, LING, tokenizer)
    assert trained_texts(sample) == ["\n<think>\nnew\n</think>\n\nb<|role_end|>"]
    (note,) = sample.notes
    assert note.startswith("messages[1] is context only")
    assert "--split-turns" in note
    first, second = supervise(chat, LING, tokenizer, split_turns=True)
    assert trained_texts(first) == ["\n<think>\nold\n</think>\n\na<|role_end|>"]
    assert first.text == LING.render(chat.messages[:2], None, False)
    assert second == sample._replace(notes=[])


def test_a_turn_that_calls_and_the_answer_behind_its_result_keep_their_reasoning(tokenizer):
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    chat = conversation(
        USER,
        answer("", reasoning_content="why", tool_calls=[call, call]),
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        answer("done", reasoning_content="so"),
        tools=TOOLS,
    )
    (sample,) = supervise(chat, LING, tokenizer)
    first, second = trained_texts(sample)
    assert first.count('{"name": "f", "arguments": {"a": 1}}') == 2
    assert "why" in first
    assert second == "\n<think>\nso\n</think>\n\ndone<|role_end|>"
    assert sample.notes == []


def test_white_space_behind_the_end_mark_is_not_learned(tokenizer):
    (sample,) = supervise(conversation(USER, answer("a \n")), in_process(CHATML), tokenizer)
    assert trained_texts(sample) == ["a \n<|role_end|>"]
    assert sample.text.endswith("<|role_end|>\n")


def test_a_token_across_a_border_is_not_learned_and_noted(tokenizer):
    # `def` is one token here, and the prompt of this template ends with its first letter.
    source = "{{ 'd' if add_generation_prompt else 'd' + messages[0].content }}"
    assert len(tokenizer.encode("def")) == 1
    (sample,) = supervise(conversation(answer("ef f(x)")), in_process(source), tokenizer)
    assert sample.ids == tokenizer.encode("def f(x)")
    assert trained_texts(sample) == ["ef f(x)"]
    assert learned(sample, tokenizer) == " f(x)"
    assert sample.notes == ["1 token(s) across the border of a turn are not trained"]


THOUGHT = answer("done", reasoning_content="look it up")
CALL = answer("", tool_calls=[{"function": {"name": "find", "arguments": {}}}])


@pytest.mark.parametrize("said", [THOUGHT, CALL, answer("<think>look it up</think>done")])
@pytest.mark.parametrize("split", [True, False])
def test_an_answer_of_which_the_template_leaves_out_a_part_is_not_learned(tokenizer, said, split):
    template = in_process(PLAIN.replace("m.content", "m.content.split('</think>')[-1]"))
    (sample,) = supervise(conversation(USER, said), template, tokenizer, split_turns=split)
    assert sample.spans == []
    assert "leaves out some of its content, reasoning or calls" in sample.notes[0]


@pytest.mark.parametrize("written", ["m.content | trim", "m.content | upper", "m.content | tojson"])
def test_an_answer_that_the_template_writes_in_its_own_way_is_learned(tokenizer, written):
    source = PLAIN.replace("m.content", written)
    (sample,) = supervise(conversation(USER, answer(' a\n"b" ')), in_process(source), tokenizer)
    assert len(sample.spans) == 1


def test_prompts_that_the_template_refuses_are_not_learned(tokenizer):
    source = "{{ messages[0].content + messages[1].content }}"
    (sample,) = supervise(conversation(USER, answer("b")), in_process(source), tokenizer)
    assert sample.spans == []
    assert "the server cannot render the messages before it" in sample.notes[0]


def test_tools_that_are_nested_too_deeply_are_an_error(tokenizer):
    nested = {}
    for _ in range(700):
        nested = {"a": nested}
    tools = [{"type": "function", "function": {"name": "f", "parameters": nested}}]
    with pytest.raises(TemplateError, match="nested too deeply"):
        supervise(conversation(USER, answer("a"), tools=tools), LING, tokenizer)


def test_a_conversation_that_the_template_refuses_is_an_error(tokenizer):
    with pytest.raises(TemplateError, match="roles must alternate"):
        supervise(
            conversation(answer("a")),
            in_process("{{ raise_exception('roles must alternate') }}"),
            tokenizer,
        )


def test_thinking_is_rendered_as_a_request_that_asks_for_it(tokenizer):
    (sample,) = supervise(conversation(USER, answer("a")), LING, tokenizer, thinking=True)
    assert sample.text == LING.render([USER, answer("a")], None, False, enable_thinking=True)


def test_a_template_behind_the_fence_gives_the_same(tokenizer):
    chat = conversation(USER, answer("a"), USER, answer("b"))
    fenced = supervise(chat, ChatTemplate(CHATML), tokenizer)
    assert fenced == supervise(chat, in_process(CHATML), tokenizer)


def test_of_a_pair_only_what_differs_is_learned(tokenizer):
    shared = [USER, answer("same"), USER]
    pair = Preference(
        conversation(*shared, answer("good")), conversation(*shared, answer("bad")), ORIGIN
    )
    texts = [trained_texts(supervise(c, LING, tokenizer)[0]) for c in answers_of(pair)]
    assert texts == [["good<|role_end|>"], ["bad<|role_end|>"]]
