"""The tool loop of `ling quickstart --sft` through a server, with the client `openai`.

    ling convert quickstart/sft/run/model quickstart/sft/int4 --to int4
    ling serve quickstart/sft/int4 --port 8000
    python benchmarks/sft_served.py http://127.0.0.1:8000/v1 quickstart/sft/valid.jsonl

Of each held-out request: question and tools, `tool_calls`, a tool message with the record's result,
an answer. Greedy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import openai

from ling.eval.tool_talk import has_free_arguments

_GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 96}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", help="such as http://127.0.0.1:8000/v1")
    parser.add_argument("records", type=Path, help="held-out records")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.url, api_key="none")
    model = client.models.list().data[0].id
    records = [json.loads(line) for line in args.records.read_text("utf-8").splitlines()]
    loops = [loop(client, model, r) for r in records if r["messages"][1].get("tool_calls")]
    for free, kind in ((False, "from lists"), (True, "free")):
        some = [found for found in loops if found["free"] == free]
        print(f"{model}, arguments {kind}: {len(some)} loops of two turns")
        for name in ("called", "exact", "answered"):
            print(f"  {name:9} {sum(found[name] for found in some) / max(len(some), 1):.0%}")
    print(json.dumps(loops[0]["messages"], indent=1))


def loop(client: openai.OpenAI, model: str, record: dict[str, Any]) -> dict[str, Any]:
    """What of a record's conversation came, and its messages."""
    messages: list[Any] = record["messages"][:1]
    tools, wanted = record["tools"], record["messages"][1]["tool_calls"][0]["function"]
    first = client.chat.completions.create(model=model, messages=messages, tools=tools, **_GREEDY)
    choice = first.choices[0]
    messages = [*messages, choice.message.model_dump(exclude_none=True)]
    found = {"called": False, "exact": False, "answered": False, "messages": messages}
    found["free"] = has_free_arguments(tools, wanted["name"])
    if choice.finish_reason != "tool_calls" or len(choice.message.tool_calls or ()) != 1:
        return found
    (call,) = choice.message.tool_calls
    found["called"] = call.function.name == wanted["name"]
    arguments = json.loads(call.function.arguments)
    found["exact"] = found["called"] and arguments == json.loads(wanted["arguments"])
    result: Any = {
        "role": "tool",
        "tool_call_id": call.id,
        "content": record["messages"][2]["content"],
    }
    second = client.chat.completions.create(
        model=model, messages=[*messages, result], tools=tools, **_GREEDY
    )
    answer = second.choices[0]
    found["messages"] = [*messages, result, answer.message.model_dump(exclude_none=True)]
    words = answer.finish_reason == "stop" and not answer.message.tool_calls
    found["answered"] = words and answer.message.content == record["messages"][3]["content"]
    return found


if __name__ == "__main__":
    main()
