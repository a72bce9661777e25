"""The server on a real (untrained) model: what it says is what `LLM.generate` says."""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import openai
import pytest
import uvicorn
from fake_llm import wait_until
from fastapi.testclient import TestClient
from http_replies import leave
from starlette.requests import ClientDisconnect

from ling import LLM, SamplingParams, from_config, preset
from ling.checkpoint.hf.save import save_model
from ling.data.tokenizer import train_tokenizer
from ling.serve.app import create_app

NAME = "tiny"
PROMPTS = ["def f(x):", "import os", "for i in range", "class A:\n    pass", "x", "日本語 text"]
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / NAME
    folder.mkdir()
    config = preset("ling-tiny").replace(dtype="float32")
    save_model(from_config(config, seed=1), config, folder)
    train_tokenizer(PROMPTS * 10, 300).save(folder)
    return folder


@pytest.fixture(scope="module")
def llm(folder):
    return LLM(folder, dtype="float32")


@pytest.fixture(scope="module")
def client(llm):
    with TestClient(create_app(llm, served_model_name=NAME)) as client:
        yield client


def complete(client, prompt, **fields) -> dict:
    body = {"model": NAME, "prompt": prompt, "temperature": 0, "max_tokens": 24, **fields}
    reply = client.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def stream_text(client, prompt, **fields) -> tuple[str, str]:
    body = {"model": NAME, "prompt": prompt, "temperature": 0, "max_tokens": 24, **fields}
    events = client.post("/v1/completions", json={**body, "stream": True}).text.split("\n\n")
    choices = [json.loads(e[6:])["choices"][0] for e in events if e and e != "data: [DONE]"]
    return "".join(c["text"] for c in choices), choices[-1]["finish_reason"]


def test_text_equals_generate_whole_streamed_and_in_a_batch(client, llm):
    expected = [
        (o.outputs[0].text, o.outputs[0].finish_reason)
        for o in llm.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=24))
    ]
    alone = [complete(client, p)["choices"][0] for p in PROMPTS]
    together = complete(client, PROMPTS)["choices"]
    assert [(c["text"], c["finish_reason"]) for c in alone] == expected
    assert [(c["text"], c["finish_reason"]) for c in together] == expected
    assert [stream_text(client, p) for p in PROMPTS] == expected


def test_concurrent_requests_equal_lone_ones(client):
    settings = [
        (prompt, {"temperature": t, "seed": seed})
        for prompt in PROMPTS
        for t, seed in ((0, 0), (1, 5), (0.7, 6))
    ]
    alone = [stream_text(client, p, **fields) for p, fields in settings]
    with concurrent.futures.ThreadPoolExecutor(len(settings)) as pool:
        together = list(pool.map(lambda s: stream_text(client, s[0], **s[1]), settings))
    assert together == alone


def test_echo_scores_equal_prompt_logprobs(client, llm):
    ids = llm.tokenizer.encode(PROMPTS[0])
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1, logprobs=1)
    output = llm.generate([ids], params)[0]
    expected = [m[i].logprob for m, i in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
    for max_tokens in (0, 1, 3):
        reply = complete(client, [ids], echo=True, logprobs=1, max_tokens=max_tokens)["choices"][0]
        scores = reply["logprobs"]["token_logprobs"]
        assert scores[0] is None
        assert scores[1 : len(ids)] == expected
        assert len(scores) == len(ids) + max_tokens
        assert reply["text"].startswith(PROMPTS[0])
        # Greedy decoding took the likeliest token each time.
        tops = reply["logprobs"]["top_logprobs"][len(ids) :]
        assert [max(top.values()) for top in tops] == scores[len(ids) :]


def test_stop_text_never_appears(client):
    text = complete(client, PROMPTS[0])["choices"][0]["text"]
    stop = text[5:8]
    cut = text[: text.index(stop)]
    assert complete(client, PROMPTS[0], stop=[stop])["choices"][0]["text"] == cut
    assert stream_text(client, PROMPTS[0], stop=[stop]) == (cut, "stop")


def test_chat_reads_what_the_template_renders(client, llm):
    shown = client.post("/tokenize", json={"messages": MESSAGES}).json()["tokens"]
    params = SamplingParams(temperature=0, max_tokens=8)
    assert shown == llm.chat(MESSAGES, params)[0].prompt_token_ids
    body = {"model": NAME, "messages": MESSAGES, "temperature": 0, "max_tokens": 8}
    reply = client.post("/v1/chat/completions", json=body).json()
    assert (
        reply["choices"][0]["message"]["content"] == llm.chat(MESSAGES, params)[0].outputs[0].text
    )
    assert reply["usage"]["prompt_tokens"] == len(shown)


def test_client_that_leaves_stops_the_engine(llm):
    app = create_app(llm, served_model_name=NAME)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        before = llm.stats.generated
        endless = {"max_tokens": 500, "extra_body": {"ignore_eos": True}}
        stream = client.completions.create(model=NAME, prompt="x", stream=True, **endless)
        next(iter(stream))
        stream.close()
        wait_until(lambda: not llm.engine.has_work)
        server.should_exit = True
        thread.join()
    assert llm.stats.generated - before < 250


def test_a_deadline_in_mid_stream_is_an_error_event(client, llm):
    step = llm.engine.step
    llm.engine.step = lambda: (time.sleep(0.01), step())[1]
    try:
        body = {"model": NAME, "prompt": "x", "max_tokens": 400, "ignore_eos": True}
        reply = client.post("/v1/completions", json={**body, "stream": True, "timeout_s": 0.3})
    finally:
        llm.engine.step = step
    *texts, last, done = [e[6:] for e in reply.text.split("\n\n") if e]
    assert texts
    assert json.loads(last)["error"]["code"] == "timeout"
    assert done == "[DONE]"
    wait_until(lambda: not llm.engine.has_work)
    assert llm.engine.pool.available == llm.engine.pool.num_pages


def test_150_clients_that_leave_before_their_first_token_are_gone_within_two_steps(llm):
    """Against a server in this process, with connections that break off."""
    app = create_app(llm, served_model_name=NAME)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
    gate, step, late = threading.Event(), llm.engine.step, []

    def counted():
        gate.wait(30)
        late.append(app.state.service.num_running == 0)
        return step()

    body = json.dumps({"model": NAME, "prompt": "y" * 200, "max_tokens": 200, "stream": True})
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    text = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        llm.engine.step = counted
        try:
            clients = [socket.create_connection(listener.getsockname()) for _ in range(150)]
            for client in clients:
                client.sendall(text)
            wait_until(lambda: len(llm._driver._handles) + llm._driver._inbox.qsize() >= 150, 30)
            for client in clients:
                client.close()
            wait_until(lambda: app.state.service.num_running == 0, 30)
            gate.set()
            wait_until(lambda: not llm.engine.has_work, 30)
        finally:
            gate.set()
            llm.engine.step = step
            server.should_exit = True
            thread.join()
    assert sum(late) <= 2
    assert llm.engine.pool.available == llm.engine.pool.num_pages
    app.state.service.close()


@pytest.mark.parametrize("count", [80, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_requests_and_clients_that_leave_at_any_time_leave_nothing_behind(llm, count):
    """Pages, threads and open files are as before, whatever was asked and whenever it was left."""
    app, rng = create_app(llm, served_model_name=NAME), random.Random(count)
    service = app.state.service

    def body():
        fields = {
            "stream": rng.random() < 0.5,
            "n": rng.choice((1, 1, 3)),
            "max_tokens": rng.randint(1, 60),
            "priority": rng.choice((None, -1, 2)),
            "cache_salt": rng.choice((None, "a", "b")),
            "timeout_s": rng.choice((None, None, 0.05)),
        }
        if rng.random() < 0.3:
            fields |= {"echo": True, "logprobs": 2, "stream": False, "max_tokens": 1, "n": 1}
        prompt = rng.choice(PROMPTS) * rng.randint(1, 12)
        return {"model": NAME, "prompt": prompt, "ignore_eos": True, **fields}

    async def one(leaves_after_s):
        end = time.monotonic() + leaves_after_s
        with contextlib.suppress(ClientDisconnect):
            await leave(app, "/v1/completions", body(), lambda: time.monotonic() > end)

    async def all_of_them():
        for _ in range(0, count, 20):
            delays = [rng.choice((0.0, 0.01, 0.05, 0.2, 9.0)) for _ in range(20)]
            await asyncio.gather(*map(one, delays))

    def leftovers():
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    llm.generate("x", SamplingParams(max_tokens=1))  # the engine's thread has begun
    before = leftovers()
    asyncio.run(all_of_them())
    wait_until(lambda: not llm.engine.has_work and not service.busy)
    assert llm.engine.pool.available == llm.engine.pool.num_pages
    assert not llm._driver._handles
    service.close()
    wait_until(lambda: all(a <= b for a, b in zip(leftovers(), before, strict=True)))


def test_command_line_serves_the_official_client(folder):
    run = "import sys; from ling.cli.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["serve", str(folder), "--port", "0", "--max-model-len", "400"]
    process = subprocess.Popen(
        [sys.executable, "-c", run, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with contextlib.ExitStack() as stack:
        stack.callback(process.communicate)
        stack.callback(process.kill)
        line = process.stdout.readline()
        found = re.fullmatch(r"ling: serving tiny on (http://127\.0\.0\.1:\d+/v1)\n", line)
        assert found, line
        client = openai.OpenAI(base_url=found[1], api_key="none", max_retries=0)
        reply = client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=5)
        assert reply.usage.completion_tokens <= 5
        with pytest.raises(openai.BadRequestError) as long:
            client.completions.create(model=NAME, prompt=[1] * 400)
        assert long.value.code == "context_length_exceeded"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, "")
        chat, refused = err.splitlines()
        assert re.search(
            r" INFO ling\.serve req_\w+ POST /v1/chat/completions 200 \d+\+\d tokens \S+ s$", chat
        )
        assert re.search(r" INFO ling\.serve req_\w+ POST /v1/completions 400 \S+ s$", refused)
