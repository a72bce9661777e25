"""The page in a real browser: what a person does with it, and what a hostile model cannot do."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from app_server import served
from browser import CHROMIUM, INSTALL, Browser
from fastapi.responses import JSONResponse
from page_server import EXPERTS, LAYERS, TOP, PageServer, call, say, think, words

from ling import LLM, from_config, preset
from ling.checkpoint.hf.save import save_model
from ling.data.tokenizer import train_tokenizer
from ling.infer.routed import layers_with_experts

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason=f"no Chromium here: {INSTALL}"),
]
IDLE = "document.querySelector('#send').title === 'Send'"
LAST = ".message:last-child"
ANSWER = '''Routing picks a few *experts* for each token, in **three** steps:

1. The router scores all 256 experts.
2. The best groups are kept, and in them the best eight experts.
3. Their outputs are added, weighted by the scores.

```python
def route(scores, bias, top_k=8):
    """Choose with the bias, weigh without it."""
    choice = scores + bias          # only the choice is biased
    ids = choice.topk(top_k, dim=-1).indices
    weights = scores.gather(-1, ids)
    return ids, weights / weights.sum(-1, keepdim=True)
```

| Model | Layers | Experts | Active |
|:--|--:|--:|--:|
| Ling-mini-2.0 | 20 | 256 | 1.4B |
| Ling-flash-2.0 | 32 | 256 | 6.1B |

> The bias moves the load, not the output.

See [the paper](https://arxiv.org/abs/2412.19437) for `n_group` and `topk_group`.'''
THOUGHT = "Two cities, and neither needs the other: I call the tool once for each, in parallel."
HOSTILE = """<script>window.harmed = 1</script><img src=x onerror="window.harmed = 2">
<svg onload="window.harmed = 3"><style>body { display: none }</style>

<iframe src="https://example.org/"></iframe>

[a](javascript:window.harmed=4) [b](data:text/html,<script>window.harmed=5</script>)
[c](JaVaScRiPt:window.harmed=6) [d](vbscript:x) [e](/v1/models) [f](java&#115;cript:window.harmed=7)
<javascript:window.harmed=8> ![pixel](https://example.org/pixel.png) ![p](//example.org/p.png)
[ref]: javascript:window.harmed=9
[ref] **bold** `<b onclick="window.harmed = 10">`

```html" onmouseover="window.harmed=11
<script>window.harmed = 12</script>
```

&lt;script&gt;window.harmed = 13&lt;/script&gt;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def server():
    with PageServer() as server:
        server.on("How does the router choose?", words(ANSWER))
        server.on("Say more", words("This is more."))
        tools = call(0, "get_weather", '{"city":"Oslo","id":9007199254740993}')
        tools += call(1, "get_weather", '{"city":"Lima","unit":"celsius"}')
        server.on("Weather in Oslo and Lima?", [*think(THOUGHT), *words("I look both up."), *tools])
        server.on("31 degrees", words("Cold there, hot here."))
        server.on("Attack me", words(HOSTILE))
        yield server


@pytest.fixture
def page(browser, server):
    page = opened(browser, server)
    yield page
    assert page.complaints() == []
    assert {url for url in page.requests() if not url.startswith((server.url, "blob:"))} == set()


def opened(browser, server, name="ling-mini-2.0", **look):
    page = browser.page(**look)
    page.open(server if isinstance(server, str) else server.url)
    page.wait(f"document.querySelector('#model-name').textContent === '{name}'")
    return page


def ask(page, text):
    page.click("#composer-text")
    page.type(text)
    page.key("Enter")
    page.wait(IDLE)


def text(page, selector=LAST):
    return page.js(f"document.querySelector({json.dumps(selector)}).innerText")


def count(page, selector):
    return page.js(f"document.querySelectorAll({json.dumps(selector)}).length")


def save_picture(page, name, tmp_path):
    """With LING_SCREENSHOTS=FOLDER the pictures of the documentation are taken anew."""
    page.wait("document.getAnimations().every((a) => a.playState !== 'running')")
    page.picture(Path(os.environ.get("LING_SCREENSHOTS", tmp_path)) / f"{name}.png")


def test_an_answer_streams_as_markdown(page, server, tmp_path):
    ask(page, "How does the router choose?")
    assert count(page, f"{LAST} ol > li") == 3
    assert count(page, f"{LAST} table tbody tr") == 2
    assert text(page, f"{LAST} figure pre").startswith("def route(scores, bias, top_k=8):")
    assert count(page, f"{LAST} .hl-keyword") == 3
    link = page.js(
        f"(({{href, rel, target}}) => [href, rel, target])(document.querySelector('{LAST} a'))"
    )
    assert link == ["https://arxiv.org/abs/2412.19437", "noopener noreferrer nofollow", "_blank"]
    stats = text(page, f"{LAST} .stats")
    assert "tokens/s" in stats
    assert "first after" in stats
    assert "64 of 90 prompt tokens cached" in stats
    body = server.bodies[-1]
    assert body["stream"] is True
    assert not {"temperature", "top_p", "seed", "tools", "return_routed_experts"} & body.keys()
    page.resize(1280, 860)
    page.js("document.querySelector('#scroll').scrollTop = 0")
    save_picture(page, "web-page-desktop", tmp_path)


def test_code_is_copied(page):
    page._browser.send(
        "Browser.grantPermissions",
        permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
        browserContextId=page.context,
    )
    ask(page, "How does the router choose?")
    page.click(f"{LAST} figure button")
    page.wait(f"document.querySelector('{LAST} figure button.done')")
    assert page.js("navigator.clipboard.readText()").startswith("def route(")


def test_escape_stops_an_answer_and_keeps_what_came(page, server):
    server.left.clear()
    server.on("Never end", words("word " * 5000))
    page.click("#composer-text")
    page.type("Never end")
    page.key("Enter")
    page.wait(f"document.querySelector('{LAST} .body').innerText.length > 40")
    assert page.js("document.querySelector('#send').title") == "Stop"
    page.key("Escape")
    page.wait(IDLE)
    assert server.left.wait(5)  # the server hears of it
    assert "stopped" in text(page, f"{LAST} .stats")
    assert text(page).startswith("word word")


def test_versions_of_a_message_are_branches_that_stay(page, server):
    server.on("Name a colour", lambda body: words(f"colour {len(server.bodies)}"))
    server.on("Name a number", lambda body: words("seven"))
    ask(page, "Name a colour")
    first = text(page, f"{LAST} .body")
    page.click(f"{LAST} [aria-label='Answer again']")
    page.wait(f"document.querySelector('{LAST} .branches')?.innerText.trim() === '2 / 2' && {IDLE}")
    second = text(page, f"{LAST} .body")
    assert first != second
    page.click(".message.user [aria-label='Edit']")
    page.js("document.activeElement.select()")
    page.type("Name a number")
    page.key("Enter")
    page.wait(f"document.querySelector('{LAST} .body').innerText === 'seven' && {IDLE}")
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": "Name a number"}]
    page.click(".message.user [aria-label='Previous version']")
    page.wait(f"document.querySelector('{LAST} .body').innerText === {json.dumps(second)}")
    page.click(f"{LAST} [aria-label='Previous version']")
    page.wait(f"document.querySelector('{LAST} .body').innerText === {json.dumps(first)}")
    ask(page, "Say more")
    assert [m["content"] for m in server.bodies[-1]["messages"]] == [
        "Name a colour",
        first,
        "Say more",
    ]
    page.send("Page.reload")
    page.wait("document.querySelector('#conversations button')")
    page.click("#conversations button")
    assert text(page, "#thread").count("Name a colour") == 1
    assert text(page, ".message.user .branches").strip() == "1 / 2"


def test_reasoning_and_tool_calls_are_folded_and_results_go_back(page, server):
    ask(page, "Weather in Oslo and Lima?")
    assert text(page, f"{LAST} .fold summary").startswith("Thought for")
    assert count(page, f"{LAST} details[open]") == 0
    assert THOUGHT not in text(page)
    page.click(f"{LAST} details summary")
    assert THOUGHT in text(page)
    page.click(f"{LAST} .calls details summary")
    # As the model wrote it: the number has more digits than JavaScript's.
    assert '"id": 9007199254740993' in text(page, f"{LAST} .calls pre")
    page.js(f"document.querySelectorAll('{LAST} .results textarea')[0].value = 'Snow'")
    page.js(f"document.querySelectorAll('{LAST} .results textarea')[1].value = '31 degrees'")
    page.click(f"{LAST} .results button")
    page.wait(f"{IDLE} && document.querySelector('{LAST}').innerText.startsWith('Cold there')")
    question, asked, *results = server.bodies[-1]["messages"]
    assert question["content"] == "Weather in Oslo and Lima?"
    assert asked["content"] == "I look both up."
    assert [c["function"]["name"] for c in asked["tool_calls"]] == ["get_weather"] * 2
    assert (
        asked["tool_calls"][0]["function"]["arguments"] == '{"city":"Oslo","id":9007199254740993}'
    )
    assert results == [
        {"role": "tool", "tool_call_id": "call_0", "content": "Snow"},
        {"role": "tool", "tool_call_id": "call_1", "content": "31 degrees"},
    ]


def test_hostile_text_does_nothing(page):
    ask(page, "Attack me")
    assert page.js("window.harmed") is None
    content = f"{LAST} .markdown"
    harmful = ("script", "img", "svg:not(.glyph)", "style", "iframe")
    assert count(page, ", ".join(f"{content} {tag}" for tag in harmful)) == 0
    links = page.js(
        f"[...document.querySelectorAll('{content} a')].map((a) => a.getAttribute('href'))"
    )
    assert links == ["https://example.org/pixel.png"]  # a link, never loaded
    assert count(page, f"{content} .dead") >= 7
    for dead in range(count(page, f"{content} .dead")):
        page.js(f"document.querySelectorAll('{content} .dead')[{dead}].click()")
    assert page.js(
        "[...document.querySelectorAll('#thread *')].every((n) => [...n.attributes]"
        ".every((a) => !a.name.startsWith('on')))"
    )
    assert page.js("window.harmed") is None
    shown = text(page)
    assert '<img src=x onerror="window.harmed = 2">' in shown
    assert "<script>window.harmed = 13</script>" in shown
    assert page.js("location.pathname") == "/"


@pytest.mark.parametrize(
    "made",
    [
        "|" + "a|" * 60 + "\n|" + "-|" * 60 + "\n" + ("|" + "b|" * 60 + "\n") * 2000,
        ">" * 20_000 + " deep",
        "- " * 5000 + "x",
        "_a" * 30_000,
        "[" * 20_000,
        "```\n" + "x = 1\n" * 20_000,
        "*" * 50_000,
        "\u202e\u0000\ud800" * 2000,
    ],
    ids=["table", "quotes", "lists", "emphasis", "brackets", "code", "stars", "controls"],
)
def test_monstrous_markdown_is_shown_in_time(page, server, made):
    server.on("Monster", [say(made)])
    page.click("#composer-text")
    page.type("Monster")
    page.key("Enter")
    page.wait(IDLE, 8)
    assert count(page, "#thread *") < 60_000
    assert page.js("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    "line",
    [
        "Some **bold** text with `code`, a [link](https://a.example) and\n\n- an item\n\n",
        "value = compute(items[3], 'text')  # and a comment\n",
        "- item one\n  - item two with *stress*\n",
        "a word and another word ",
    ],
    ids=["mixed", "fence", "list", "line"],
)
def test_a_long_answer_stays_fluent_as_it_grows(page, server, line):
    """200 KB in pieces; a fence and a list stay open, as one block that grows."""
    piece = (line * (500 // len(line) + 1))[:500]
    opened = "```python\n" if line.startswith("value") else ""
    server.on("Grow", [say(opened), *[say(piece)] * 400])
    page.click("#composer-text")
    page.type("Grow")
    page.key("Enter")
    page.wait(IDLE, 12)
    assert len(text(page, f"{LAST} .body")) > 120_000


def test_unfinished_markdown_is_shown_as_what_it_will_be(page, server):
    server.on("Half", [say("1. one\n   - two\n\n     ```js\n     let x = 1")])
    ask(page, "Half")
    assert text(page, f"{LAST} ol > li > ul > li figure pre") == "let x = 1"
    server.on("Table", [say("| a | b |\n|--|--|\n| 1 | 2"), say("\n\n**half")])
    ask(page, "Table")
    assert count(page, f"{LAST} tbody td") == 2
    assert text(page, f"{LAST} .markdown p") == "**half"


def test_conversations_leave_and_come_back(page, server, tmp_path):
    ask(page, "Say more")
    page.click(f"{LAST} [aria-label='Answer again']")
    page.wait(f"document.querySelector('{LAST} .branches')?.innerText.trim() === '2 / 2' && {IDLE}")
    page.downloads_to(tmp_path)
    page.click("#export-all")
    page.wait("true")
    file = found(tmp_path, "ling-conversations-*.json")
    saved = json.loads(file.read_text())
    assert saved["format"] == "ling-conversations"
    (kept,) = saved["conversations"]
    assert sorted(n["role"] for n in kept["nodes"].values()) == ["assistant", "assistant", "user"]
    page.click("#conversations [aria-label^='Delete']")
    page.click("#confirm button.strong")
    page.wait("!document.querySelector('#conversations li')")
    page.choose_file("#import-file", file)
    page.wait(f"document.querySelector('{LAST} .branches')?.innerText.trim() === '2 / 2'")
    assert "This is more." in text(page)


def found(folder, pattern):
    done = threading.Event()
    for _ in range(200):
        if files := list(folder.glob(pattern)):
            return files[0]
        done.wait(0.02)
    raise AssertionError(f"no {pattern}")


def test_a_foreign_file_is_refused_or_read_as_data(page, tmp_path):
    bad = tmp_path / "bad.json"
    head = {"format": "ling-conversations", "version": 1}
    unknown = {**head, "conversations": [{"nodes": {"a": {"role": "root"}}}]}
    for content in ("{", "[]", json.dumps(unknown)):
        bad.write_text(content)
        page.js("document.querySelector('#banner').hidden = true")
        page.choose_file("#import-file", bad)
        page.wait("!document.querySelector('#banner').hidden")
        assert text(page, "#banner").startswith("The file could not be imported: ")
    nodes = {
        "__proto__x": {
            "id": "a",
            "parent": None,
            "role": "user",
            "content": "<img src=x onerror=alert(1)>",
            "polluted": 1,
        },
        "b": {"id": "b", "parent": "b", "role": "user", "content": "a loop"},
    }
    given = {"title": 5, "nodes": nodes, "chosen": {"__proto__": "a"}}
    bad.write_text(json.dumps({**head, "conversations": [given]}))
    page.choose_file("#import-file", bad)
    page.wait("document.querySelector('.message')")
    assert text(page, ".message .body") == "<img src=x onerror=alert(1)>"
    assert page.js("({}).polluted") is None


def set_field(page, name, value):
    page.js(
        f"(() => {{ const field = document.querySelector('#settings [name={name}]');"
        f"field.value = {json.dumps(value)}; field.dispatchEvent(new Event('input')); }})()"
    )


def test_settings_and_the_system_prompt_are_sent_and_remembered(page, server):
    page.click("#open-settings")
    values = {
        "system": "Be brief.",
        "temperature": "0.3",
        "topP": "0.9",
        "maxTokens": "50",
        "seed": "7",
        "thinking": "on",
    }
    for name, value in values.items():
        set_field(page, name, value)
    set_field(page, "tools", "{")
    page.click("#settings button.strong")
    assert page.js("document.querySelector('#settings').open")  # no JSON
    set_field(page, "tools", '[{"type": "function", "function": {"name": "f"}}]')
    page.click("#settings button.strong")
    page.wait("!document.querySelector('#settings').open")
    ask(page, "Say more")
    body = server.bodies[-1]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["top_p"], body["max_completion_tokens"], body["seed"]) == (
        0.3,
        0.9,
        50,
        7,
    )
    assert body["chat_template_kwargs"] == {"enable_thinking": True}
    assert body["tools"][0]["function"]["name"] == "f"
    page.send("Page.reload")
    page.wait("document.querySelector('#model-name').textContent === 'ling-mini-2.0'")
    ask(page, "Say more")
    assert {**server.bodies[-1], "messages": None} == {**body, "messages": None}


def test_the_map_fills_and_a_token_shows_its_own_experts(page, server, tmp_path):
    page.click("#toggle-map")
    ask(page, "Say more")
    body = server.bodies[-1]
    assert body["return_routed_experts"] is True
    assert (body["routed_experts_start_len"], body["logprobs"]) == (-1, True)
    assert (
        text(page, "#map .note")
        == f"{LAYERS} layers × {EXPERTS} experts, {TOP} for each token · 3 tokens"
    )
    assert page.js(
        "[...document.querySelectorAll('#map .tokens span')].map((s) => s.textContent)"
    ) == ["This ", "is ", "more."]
    page.click("#map .tokens span:nth-child(2)")
    rows = page.js(
        "[...document.querySelectorAll('#map .detail tbody tr')].map((row) =>"
        "[...row.querySelectorAll('.expert')].map((e) => Number(e.firstChild.textContent)))"
    )
    assert rows == [
        [(7 * layer + 1 + 13 * k) % EXPERTS for k in range(TOP)] for layer in range(LAYERS)
    ]
    page.click("#map .tokens")  # keys move on from there
    page.js("document.querySelector('#map .tokens').focus()")
    page.key("ArrowRight")
    assert "token 3" in text(page, "#map caption")
    page.key("Escape")
    assert count(page, "#map .detail table") == 0
    # Layer 1, expert 0 was taken by the first of three tokens.
    box = page.js(
        "(({x, y}) => [x, y])(document.querySelector('#map canvas').getBoundingClientRect())"
    )
    page.move(box[0] + 28, box[1] + 2)
    said = "Layer 1 · expert 0 · taken by 33% of tokens"
    page.wait(f"document.querySelector('#map .said').textContent.startsWith('{said}')")
    colours = (
        "(() => { const c = document.querySelector('#map canvas');"
        "const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
        "return new Set(new Uint32Array(data.buffer)).size; })()"
    )
    assert page.js(colours) > 3


@pytest.fixture
def llm(tmp_path):
    """A real model: LING_SCREENSHOT_MODEL=FOLDER, or a small one that only babbles."""
    folder = os.environ.get("LING_SCREENSHOT_MODEL")
    if folder is None:
        folder = tmp_path / "model"
        folder.mkdir()
        network = from_config(preset("ling-tiny"), seed=1)
        save_model(network, network.config, folder)
        train_tokenizer(["def f(x):\n    return x + 1\n"] * 9, 300).save(folder)
    return LLM(folder)


def test_the_map_shows_what_a_real_model_took(browser, llm, tmp_path):
    with served(llm, "quickstart") as url:
        page = opened(browser, url + "/", "quickstart", width=1280, height=900)
        page.click("#open-settings")
        for name, value in {"maxTokens": "160", "seed": "1", "temperature": "0.7"}.items():
            set_field(page, name, value)
        page.click("#settings button.strong")
        page.click("#toggle-map")
        ask(page, "def is_sorted(numbers):")
        tokens = page.js("document.querySelectorAll('#map .tokens span').length")
        assert f"· {tokens} tokens" in text(page, "#map .note")
        assert f"{tokens} tokens" in text(page, f"{LAST} .stats")
        word = page.js(
            "[...document.querySelectorAll('#map .tokens span')]"
            ".findIndex((s, i) => i > 8 && /^ \\w{3}/.test(s.textContent))"
        )
        page.click(f"#map .tokens span:nth-child({word + 1 or 12})")
        layers = layers_with_experts(llm.config)
        assert count(page, "#map .detail tbody tr") == len(layers)
        taken = count(page, "#map .detail .expert")
        assert taken == len(layers) * llm.config.num_experts_per_tok
        page.js("document.activeElement.blur()")
        save_picture(page, "web-page-map", tmp_path)
        assert page.complaints() == []


def test_without_the_map_nothing_is_traced(page, server):
    ask(page, "Say more")
    assert "return_routed_experts" not in server.bodies[-1]


def test_the_page_works_by_keys_alone(page, server):
    page.js("document.querySelector('.skip').focus()")
    page.key("Enter")
    page.wait("document.activeElement.id === 'composer-text'")
    page.type("Say")
    page.key("Enter", shift=True)
    page.type("more")
    assert page.js("document.querySelector('#composer-text').value") == "Say\nmore"
    server.on("Say\nmore", words("In two lines."))
    page.key("Enter")
    page.wait(f"document.querySelector('{LAST}.assistant') && {IDLE}")
    page.key("ArrowUp")
    page.wait("document.activeElement.getAttribute('aria-label') === 'Edit the message'")
    page.key("Escape")
    page.wait("!document.querySelector('form.edit')")
    unnamed = page.js(
        "[...document.querySelectorAll('button, input, textarea, canvas')].filter((n) =>"
        "!n.hidden && !n.textContent.trim() && !n.getAttribute('aria-label') &&"
        "!n.closest('label') && !n.title).length"
    )
    assert unnamed == 0


def test_a_phone_shows_all_of_it(browser, server, tmp_path):
    page = opened(browser, server, width=390, height=844, phone=True)
    assert page.js("document.querySelector('#sidebar').inert")
    ask(page, "How does the router choose?")
    assert page.js("document.documentElement.scrollWidth") == 390
    widest = page.js(
        "Math.max(...[...document.querySelectorAll('#thread > *')]"
        ".map((n) => n.getBoundingClientRect().right))"
    )
    assert widest <= 390
    page.js("document.querySelector('#scroll').scrollTop = 0")
    save_picture(page, "web-page-phone", tmp_path)
    page.click("#open-sidebar")
    page.wait("document.querySelector('#conversations .title').getBoundingClientRect().width > 100")
    assert page.complaints() == []


def test_dark_follows_the_system_and_the_switch(browser, server, tmp_path):
    page = opened(browser, server, dark=True)
    light = (
        "(() => { const [red] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g);"
        "return Number(red) > 128; })()"
    )
    assert page.js(light) is False
    ask(page, "Weather in Oslo and Lima?")
    page.click(f"{LAST} details summary")
    page.js("document.activeElement.blur()")
    save_picture(page, "web-page-dark", tmp_path)
    page.click("#toggle-theme")
    assert page.js(light) is True
    page.send("Page.reload")
    page.wait("document.querySelector('#model-name').textContent === 'ling-mini-2.0'")
    assert page.js(light) is True
    assert page.complaints() == []


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(browser):
    with PageServer(api_key="sk-right") as server:
        server.on("Say more", words("This is more."))
        page = browser.page()
        page.open(server.url)
        for key in ("sk-wrong", "sk-right"):
            page.wait("document.querySelector('#key').open")
            page.js("document.querySelector('#key input').select()")
            page.type(key)
            page.key("Enter")
            page.wait(
                "!document.querySelector('#key').open ||"
                "document.querySelector('#key p').innerText.includes('not accept')"
            )
        page.wait("document.querySelector('#model-name').textContent === 'ling-mini-2.0'")
        ask(page, "Say more")
        assert "This is more." in text(page)
        assert page.js("[sessionStorage['ling.api-key'], localStorage['ling.api-key']]") == [
            "sk-right",
            None,
        ]
        assert not [url for url in page.requests() if "sk-" in url]


@pytest.mark.parametrize(
    ("status", "said"), [(429, "The server is busy: too many."), (503, "Not ready: too many.")]
)
def test_a_refusal_says_when_to_try_again(browser, server, status, said):
    page = opened(browser, server)
    error = {"error": {"message": "too many", "type": "x"}}
    once = iter([JSONResponse(error, status, {"Retry-After": "1"})])
    server.on("Busy?", lambda body: next(once, None) or words("Not any more."))
    ask(page, "Busy?")
    assert text(page, f"{LAST} .problem span") == said
    assert page.js(f"document.querySelector('{LAST} .problem button').disabled")
    page.wait(f"!document.querySelector('{LAST} .problem button').disabled")
    page.click(f"{LAST} .problem button")
    page.wait(f"document.querySelector('{LAST}').innerText.startsWith('Not any more.')")
    assert count(page, f"{LAST} .problem:not([hidden])") == 0


def test_an_answer_that_breaks_off_says_so(page, server):
    server.on("Break", [say("Half an "), {"delta": {}, "error": None}])
    original = server._stream

    async def broken(answer, body):
        yield 'data: {"choices": [{"index": 0, "delta": {"content": "Half"}}]}\n\n'
        yield 'data: {"error": {"message": "the engine failed"}}\n\n'

    server._stream = broken
    try:
        ask(page, "Break")
    finally:
        server._stream = original
    assert text(page, f"{LAST} .problem span") == "the engine failed"
    assert text(page).startswith("Half")
