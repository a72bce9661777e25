"""`ling chat`: with a small model, and with servers."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys

import pytest
from app_server import served
from openai_stand_in import NAME, OpenAIStandIn
from scripted import ScriptedLLM
from tool_loop import tool_loop

from ling import from_config, preset
from ling.checkpoint.hf.save import save_model
from ling.cli import chat
from ling.cli.chat_models import LocalModel, Settings
from ling.cli.conversation import Conversation
from ling.cli.main import main
from ling.data.assistant import fold
from ling.data.tokenizer import train_tokenizer
from ling.tools import BUILTIN

TEXT = ["def f(x):\n    return x\n\nclass A:\n    pass\n"] * 10
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "plain"
    folder.mkdir()
    network = from_config(preset("ling-tiny"), seed=1)
    save_model(network, network.config, folder)
    train_tokenizer(TEXT, 300).save(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in chat.KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def talk(capsys, monkeypatch):
    """Type lines to `ling chat`; returns exit code, stdout and stderr."""

    def typed(lines: str, *args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        code = main(["chat", *map(str, args)])
        return code, *capsys.readouterr()

    return typed


def replies(prompt: str) -> str:
    """What the scripted model says."""
    last = prompt.rpartition("<role>HUMAN</role>")[2]
    if "<tool_response>" in last:
        return "Cold."
    if "weather" in last:
        return CALL
    if "ask me" in last:
        return "<think>\nlet me see\n</think>\n\nYou are right."
    if "attack" in last:
        return "red \x1b[31m bell \x07 title \x1b]0;x\x07 \u202e世界\r\n\tend"
    return f"I heard {prompt.count('HUMAN')}."


@pytest.fixture(scope="module")
def server():
    with ScriptedLLM(replies) as llm, served(llm) as url:
        yield url


# ---- a model of this machine ---------------------------------------------------------------------


def test_chat_drops_the_oldest_turns_and_says_so(model, talk):
    options = ["--max-tokens", 10, "--max-model-len", 140, "--system", "x"]
    code, out, err = talk("one def class\n" * 8, model, *options)
    assert (code, err) == (0, "")
    assert out.count("ling> ") == 8
    assert "the context is full: the oldest question is forgotten" in out


def test_a_question_that_never_fits_is_an_error_and_the_chat_continues(model, talk):
    lines = "hi\n" + "long " * 100 + "\n\nhi\n"
    code, out, err = talk(lines, model, "--max-tokens", 3, "--max-model-len", 140)
    assert code == 0
    assert "error: the prompt has" in err
    assert len(err.splitlines()) == 1
    assert out.count("ling> ") == 2
    assert out.count("[cut at the limit of tokens") == 2


def test_a_chat_needs_an_input(model, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    assert main(["chat", str(model)]) == 2
    assert "there is no input" in capsys.readouterr().err


def test_settings_change_what_is_said(model, talk):
    lines = "hi\n/retry\n/set temperature 0\n/retry\n/retry\n/set top_p 7\n/set\n"
    code, out, err = talk(lines, model, "--max-tokens", 8, "--temperature", 1.5)
    warm, again, cold, same = (a.partition("\n[cut")[0] for a in out.split("ling> ")[1:])
    assert (code, cold) == (0, same)
    assert len({warm, again, cold}) == 3
    assert "`top_p` is 7" in err
    assert out.rstrip().endswith("[set: temperature 0.0, max_tokens 8]\nyou>")


@pytest.mark.parametrize("option", ["--model", "--api-key-file"])
def test_options_of_servers_need_a_url(model, talk, option):
    code, _, err = talk("", model, option, "x")
    assert (code, err) == (2, f"error: `{option}` is for URLs of servers\n")


def test_a_local_model_calls_tools_and_thinks():
    with ScriptedLLM(replies) as llm:
        asked, talking = Settings(tools=TOOLS), Conversation()
        model = LocalModel(llm, "x")
        talking.add("user", "the weather?")
        kinds = [type(e).__name__ for e in model.answer(talking, asked)]
        assert kinds[0] == "ToolCallStart"
        assert kinds[-2:] == ["ToolCallEnd", "Ended"]
        talking.undo()
        talking.add("user", "ask me")
        events = list(model.answer(talking, Settings()))
        assert fold(events[:-1]).reasoning == "let me see"
        assert fold(events[:-1]).content == "You are right."


# ---- tools ---------------------------------------------------------------------------------------


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def sums(prompt: str) -> str:
    """A model that asks its calculator, and repeats what that gave."""
    last = prompt.rpartition("<role>HUMAN</role>")[2]
    results = re.findall(r"<tool_response>\n(.*?)\n</tool_response>", last, re.DOTALL)
    if "for ever" in last:
        return call("calculator", expression="1 + 1")
    if results and "half" in last:
        return "Half of what?"
    if results:
        return f"It is {' and '.join(_told(result) for result in results)}."
    if "both" in last:
        return call("calculator", expression="6 * 7") + call("get_weather", city="Oslo")
    if "half" in last:
        return call("calculator", expression="\ud800")
    if "zero" in last:
        return call("calculator", expression="1 / 0")
    return call("calculator", expression="6 * 7")


def _told(result: str) -> str:
    return " ".join(map(str, json.loads(result).values())) if result[0] == "{" else result


def said(lines: str, tools: object, monkeypatch, capsys) -> str:
    """What `ling chat` prints of a scripted model that has these tools."""
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    with ScriptedLLM(sums) as llm:
        chat.Chat(LocalModel(llm, "x"), Conversation(), Settings(tools=tools)).run()
    return capsys.readouterr().out


CALCULATOR = BUILTIN["calculator"].definition


def test_a_built_in_tool_runs_and_the_model_reads_what_it_gave(monkeypatch, capsys):
    out = said("six times seven?\ndivide by zero\n", [CALCULATOR], monkeypatch, capsys)
    assert "call 0> calculator" in out
    assert 'calculator> {"result": 42}\nling> It is 42.\n' in out
    assert 'calculator> {"error": "division by zero"}\nling> It is division by zero.\n' in out


def test_a_program_runs_the_same_tools_through_a_server():
    with ScriptedLLM(sums) as llm, served(llm) as url:
        results, last = tool_loop(url, "scripted", "six times seven?", [CALCULATOR])
    assert (results, last.message.content) == (['{"result": 42}'], "It is 42.")
    assert last.finish_reason == "stop"


def test_built_in_tools_run_here_for_a_model_of_a_server(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("six times seven?\n"))
    with ScriptedLLM(sums) as llm, served(llm) as url:
        assert main(["chat", url, "--tools", "calculator"]) == 0
    assert 'calculator> {"result": 42}\nling> It is 42.\n' in capsys.readouterr().out


def test_the_person_is_asked_for_what_is_no_built_in_tool(monkeypatch, capsys):
    out = said("both\n7 degrees\n", [CALCULATOR, *TOOLS], monkeypatch, capsys)
    assert 'calculator> {"result": 42}\nwhat get_weather gave (2 of 2, empty: nothing)> ' in out
    assert "ling> It is 42 and 7 degrees." in out


def test_a_tool_of_a_built_in_name_that_is_another_is_not_run(monkeypatch, capsys):
    other = {"function": {"name": "calculator", "parameters": {"type": "object"}}}
    out = said("hi\n\n", [other], monkeypatch, capsys)
    assert "what calculator gave (1 of 1" in out


def test_a_tool_that_was_not_offered_is_not_run_and_the_model_is_told(monkeypatch, capsys):
    out = said("hi\nagain\n", TOOLS, monkeypatch, capsys)
    told = 'calculator> {"error": "there is no tool calculator"}\nling> It is there is no tool'
    assert out.count(told) == 2


def test_half_a_surrogate_pair_that_a_model_writes_does_not_end_its_turn(monkeypatch, capsys):
    out = said("half\n", [CALCULATOR], monkeypatch, capsys)
    assert "ling> Half of what?" in out


def test_a_model_that_only_calls_is_stopped(monkeypatch, capsys):
    out = said("for ever\n", [CALCULATOR], monkeypatch, capsys)
    assert out.count('calculator> {"result": 2}') == chat.MAX_ROUNDS
    assert f"[{chat.MAX_ROUNDS} answers in a row had calls: ask again to go on]" in out


def test_a_model_offers_the_tools_of_its_folder(model, tmp_path, talk):
    folder = tmp_path / "with-tools"
    shutil.copytree(model, folder)
    (folder / "tools.json").write_text(json.dumps([CALCULATOR]))
    options = ["--max-tokens", 1]
    _, out, _ = talk("/tools\n/tools off\n/tools\n/tools clock, calculator\n", folder, *options)
    assert "[it may call calculator; `/tools off` drops them]" in out
    shown = re.findall(r"\[tools: (.*)\]", out)
    assert shown == ["calculator", "none", "none", "clock, calculator"]
    assert "may call" not in talk("", folder, *options, "--tools", "off")[1]
    assert "[tools: clock]" in talk("/tools\n", folder, *options, "--tools", "clock")[1]
    (folder / "tools.json").write_text("{")
    code, _, err = talk("", folder, *options)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "tools.json`: not JSON" in err
    assert talk("", folder, *options, "--tools", "off")[0] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("calculater", "there is no built-in tool `calculater` (did you mean `calculator`?): exp"),
        ("clock,nothing", "there is no built-in tool `nothing`: expected calculator, clock, date"),
        ("no/such.json", "`no/such.json`: No such file or directory"),
        ("nothing.json", "`nothing.json`: No such file or directory"),
        ("x" * 5000, "there is no built-in tool `xx"),
        ("x/" * 5000, "`x/x/"),
    ],
)
def test_tools_that_are_not_there(model, talk, text, words):
    code, _, err = talk("", model, "--tools", text)
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith(f"error: {words}")


# ---- servers -------------------------------------------------------------------------------------


def test_a_server_answers_with_the_whole_conversation(server, talk):
    code, out, err = talk("one\ntwo\n/undo\nthree\n/history\n", server, "--system", "Be brief.")
    assert (code, err) == (0, "")
    assert [a.partition("\n")[0] for a in out.split("ling> ")[1:]] == [
        "I heard 1.",
        "I heard 2.",
        "I heard 2.",
    ]
    history = out.partition("you> system> ")[2].splitlines()
    assert history[:4] == ["Be brief.", "user> one", "assistant> I heard 1.", "user> three"]


def test_calls_get_results_from_the_person(server, talk, tmp_path):
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps(TOOLS))
    kept = tmp_path / "kept.json"
    code, out, err = talk(
        f"the weather?\n-3 degrees\n/save {kept}\nthe weather?\n\n/tools off\n/history\n",
        server,
        *("--tools", tools),
    )
    assert (code, err) == (0, "")
    assert 'call 0> get_weather {"city": "Oslo"}' in out
    assert "what get_weather gave (1 of 1, empty: nothing)> ling> Cold.\n" in out
    question, called, result, answer = json.loads(kept.read_text())["messages"]
    assert question["content"] == "the weather?"
    (call,) = called["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    assert (result["tool_call_id"], result["content"]) == (call["id"], "-3 degrees")
    assert answer["content"] == "Cold."
    assert out.count("ling> ") == 1  # no result, no second answer
    assert out.rstrip().endswith("tool> no result\nyou>")


def test_reasoning_is_told_from_the_answer_and_not_sent_back(server, talk):
    _, out, _ = talk("ask me\n/history\n", server)
    assert "thinking> let me see\nling> You are right.\n" in out
    assert out.count("let me see") == 1


def test_no_text_of_a_model_acts_on_the_terminal(server, talk):
    _, out, _ = talk("attack\n/history\n", server)
    assert out.count("red ?[31m bell ? title ?]0;x? ?世界\n\tend") == 2
    assert not set(out) & set("\x1b\x07\r\u202e")


def test_reasoning_is_dimmed_in_a_terminal(server, talk, monkeypatch):
    monkeypatch.setattr(chat, "Screen", lambda: screen)
    monkeypatch.delenv("NO_COLOR", raising=False)
    from ling.cli.chat_screen import Screen

    screen = Screen()
    screen._has_colours = True
    _, out, _ = talk("ask me\n", server)
    assert "thinking> \x1b[2m" in out
    assert out.replace("\x1b[2m", "").replace("\x1b[0m", "").count("\x1b") == 0


def test_saved_conversations_go_on(server, talk, tmp_path):
    file = tmp_path / "talk.json"
    talk(f"one\n/save {file}\n", server, "--system", "S")
    code, out, _ = talk(f"/load {file}\ntwo\n/system\n", server)
    assert code == 0
    assert "[loaded: 2 messages]" in out
    assert "ling> I heard 2." in out
    assert "[system: S]" in out


@pytest.mark.parametrize(
    ("mode", "status", "words"),
    [
        ("unauthorized", 2, "the key is refused; give `--api-key-file FILE`, LING_API_KEY or"),
        ("not-openai", 2, "is it the URL of an OpenAI-compatible server?"),
        ("busy", 0, "the server answers HTTP 429: too many requests"),
        ("error", 0, "the server says: scores are not finite"),
        ("cut", 0, "the connection broke"),
        ("deep", 0, "which is no JSON object"),
        ("endless", 0, "which is no JSON object"),
        ("deep-refusal", 0, "the server answers HTTP 400: [["),
        ("deep-models", 2, "no list of models"),
    ],
)
def test_what_goes_wrong_with_a_server_is_one_line(talk, mode, status, words):
    with OpenAIStandIn(mode) as stand_in:
        code, _, err = talk("hi\n", stand_in.url, "--max-tokens", 4)
    assert code == status
    assert words in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_half_a_surrogate_pair_and_calls_that_are_none_end_no_chat(talk, tmp_path):
    file = tmp_path / "talk.json"
    with OpenAIStandIn("odd") as stand_in:
        code, out, err = talk(f"one\ntwo\n/save {file}\n/load {file}\n", stand_in.url)
        assert [m["content"] for m in stand_in.bodies[-1]["messages"]] == ["one", "\ud800é", "two"]
    assert (code, err) == (0, "")
    assert "ling> ?é" in out
    assert json.loads(file.read_text())["messages"][1]["content"] == "\ud800é"
    assert "[loaded: 4 messages]" in out


def test_an_answer_that_failed_leaves_no_question_behind(talk):
    with OpenAIStandIn("flaky") as stand_in:
        _, out, err = talk("one\ntwo\n", stand_in.url, "--max-tokens", 4)
        assert "scores are not finite" in err
        assert out.endswith("ling>  w0 w1 w2 w3\nyou> ")
        assert [m["content"] for m in stand_in.bodies[-1]["messages"]] == ["two"]


def test_a_retry_that_fails_keeps_the_first_answer(talk):
    with OpenAIStandIn("flaky") as stand_in:
        stand_in.bodies.append({})  # so that the first request is even, and answered
        lines = "one\n/retry\n/history\n"
        _, out, err = talk(lines, stand_in.url, "--max-tokens", 4)
    assert "scores are not finite" in err
    assert "user> one\nassistant>  w0 w1 w2 w3\n" in out


def test_no_server_and_no_such_model_are_told_at_once(talk):
    code, _, err = talk("", "http://127.0.0.1:9")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "no server answers there" in err
    with OpenAIStandIn() as stand_in:
        code, _, err = talk("", stand_in.url, "--model", "gpt-9")
        assert (code, err) == (2, f"error: the server has no model `gpt-9`; it has `{NAME}`\n")


def test_the_engine_of_a_server_is_its_own_affair(talk):
    code, _, err = talk("", "http://127.0.0.1:9", "--format", "int4")
    assert (code, err) == (
        2,
        "error: `--format` is for models of this machine, the server has its own\n",
    )


def test_keys_come_from_a_file_or_the_environment(talk, tmp_path, monkeypatch):
    file = tmp_path / "key"
    with OpenAIStandIn("unauthorized") as stand_in:
        url = stand_in.url + "/v1"
        file.write_text("\ufeff# the file that the server has\r\n\r\nsecret\r\nother\r\n")
        assert talk("", url, "--api-key-file", file)[0] == 0
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        assert talk("", url)[0] == 0
        monkeypatch.setenv("LING_API_KEY", "wrong")
        assert talk("", url)[0] == 2
    file.write_text("")
    code, _, err = talk("", url, "--api-key-file", file)
    assert (code, err) == (2, f"error: `--api-key-file` `{file}` has no key: write one a line\n")


def test_only_what_was_given_is_sent(talk):
    with OpenAIStandIn() as stand_in:
        lines = "one\n/set seed 7\n/set thinking off\none\n/set seed default\none\n"
        talk(lines, stand_in.url, "--max-tokens=2", "--temperature", 0.5)
        first, second, third = (dict(b) for b in stand_in.bodies)
    for body in (first, second, third):
        assert (body.pop("model"), body.pop("stream")) == (NAME, True)
        body.pop("messages")
    assert first == {"max_tokens": 2, "temperature": 0.5}
    off = {"enable_thinking": False, "thinking": False}
    assert second == {**first, "seed": 7, "chat_template_kwargs": off}
    assert third == {**first, "chat_template_kwargs": off}


def test_ctrl_c_stops_the_answer_only(server, monkeypatch, capsys):
    lines = iter(["one", KeyboardInterrupt, "two", "/history", KeyboardInterrupt])

    def typed(_prompt: str) -> str:
        line = next(lines)
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        return line

    monkeypatch.setattr("builtins.input", typed)
    shown = []

    class Impatient(chat.Screen):
        def show(self, event) -> None:
            super().show(event)
            shown.append(event)
            if len(shown) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(chat, "Screen", Impatient)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(StopIteration):  # `main` would wait for the next line
        chat.chat([server])
    out = capsys.readouterr().out
    assert "[stopped]" in out
    assert "[Ctrl-C again, Ctrl-D or /exit ends]" in out
    assert "ling> I heard 2." in out
    assert out.count("assistant> I") == 2  # what had come of the first is kept


# ---- commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/hlep", "there is no command `/hlep` (did you mean `/help`?)"),
        ("/set sed 5", "there is no setting `sed` (did you mean `seed`?)"),
        ("/set seed x", "`seed` is `x`, expected a number or default"),
        ("/set thinking maybe", "`thinking` is `maybe`, expected on, off or default"),
        ("/tools /nowhere", "`/nowhere`: No such file or directory"),
        ("/load", "/load needs the name of a file"),
        ("/save ~nobody-here/x", "~nobody-here/x: cannot write here"),
        ("/load a\0b", "`a?b` is the name of no file"),
        ("/save /nowhere/at/all", "/nowhere/at/all: cannot write here"),
        ("/retry", "there is no question yet"),
        ("/\x1b[2J", "there is no command `/?[2J`"),
    ],
)
def test_a_command_that_cannot_be_is_one_line(server, talk, line, words):
    code, out, err = talk(line + "\nhi\n", server)
    assert code == 0
    assert err.startswith(f"error: {words}")
    assert len(err.splitlines()) == 1
    assert "ling> I heard 1." in out


def test_help_lists_every_command_and_slashes_can_be_said(server, talk):
    _, out, _ = talk("/help\n//help\n/history\n/exit\nnever\n", server)
    for name in ("help", "system", "set", "tools", "history", "undo", "retry", "new", "save"):
        assert f"\n/{name} " in out or f"you> /{name} " in out
    assert "user> /help\n" in out
    assert "never" not in out


def test_url_chats_start_without_torch(server):
    code = (
        "import sys; from ling.cli.main import main; sys.stdin = open('/dev/null');"
        f"assert main(['chat', {server!r}]) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
