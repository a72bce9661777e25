"""The structure of the source: layers are import-linter's (scripts/check), the rest is here."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "ling"
FILES = sorted(str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py"))
MODULES = [name for name in FILES if Path(name).name != "__init__.py"]
C_FILES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.is_file())


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((PACKAGE / name).read_text())


def test_every_source_file_is_described_once():
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = Counter(re.findall(r"^\| `([\w./]+)` \|", text, re.MULTILINE))
    assert not [name for name, times in named.items() if times > 1]
    assert set(named) == {*MODULES, *C_FILES}


# ---- import circles ----------------------------------------------------------------------------


def imports(name: str) -> Iterator[str]:
    """The files of the package that a file imports, anywhere but under `if TYPE_CHECKING`."""
    here = Path(name).parent.parts
    for node in runtime_nodes(tree(name)):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
            candidates = [p[1:] for p in paths if p[0] == "ling"]
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                base = [*here[: len(here) - node.level + 1], *base]
            elif base[0] == "ling":
                base = base[1:]
            else:
                continue
            inner = [[*base, alias.name] for alias in node.names]
            candidates = [path if file_of(path) else base for path in inner]
        else:
            continue
        yield from filter(None, map(file_of, candidates))


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from runtime_nodes(child)


def file_of(path: list[str]) -> str | None:
    for name in ("/".join(path) + ".py", "/".join([*path, "__init__.py"])):
        if name in FILES:
            return name
    return None


def circle(graph: dict[str, list[str]]) -> list[str]:
    """One circle of the graph, the first file again at its end; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in graph[name]:
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, []))), [])


def test_no_import_circle_between_files():
    """Imports inside functions count: a circle that only works when called is still one."""
    graph = {name: sorted(set(imports(name))) for name in FILES}
    assert "text.py" in graph["cli/main.py"]
    assert "convert/synth_gguf.py" in graph["eval/peers.py"]  # imported inside a function
    assert not circle(graph), " -> ".join(circle(graph))


def test_a_circle_is_found_and_printed():
    graph = {"a": ["b", "c"], "b": [], "c": ["d"], "d": ["b", "c"]}
    assert circle(graph) == ["c", "d", "c"]
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) == []


# ---- sizes -------------------------------------------------------------------------------------

MAX_CLASS, MAX_C_FILE, MAX_SHARE = 250, 600, 0.25
LARGE_CLASSES = ("config/", "plugins/hf_model.py")
"""One field a line, and what transformers asks of one class."""


def test_no_class_is_too_long_to_read():
    lengths = {
        f"{name}: {node.name}": node.end_lineno - node.lineno + 1
        for name in FILES
        if not name.startswith(LARGE_CLASSES)
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ClassDef)
    }
    assert not {k: n for k, n in lengths.items() if n > MAX_CLASS}


def test_no_c_file_is_too_long_to_read():
    lengths = {name: lines(ROOT / name) for name in C_FILES}
    assert not {k: n for k, n in lengths.items() if n > MAX_C_FILE}


def test_no_room_has_a_quarter_of_the_lines():
    rooms: Counter[str] = Counter()
    for name in FILES:
        rooms[name.partition("/")[0]] += lines(PACKAGE / name)
    shares = {room: n / rooms.total() for room, n in rooms.items()}
    assert not {k: s for k, s in shares.items() if s >= MAX_SHARE}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


# ---- tests mirror the source -------------------------------------------------------------------

# Files without a test file of their own: the test that covers them, and why it does.
TESTED_TOGETHER = {
    "errors.py": ("tests/cli/test_main.py", "classes; every refusal raises one"),
    "train/{answers,dry_run}.py": ("tests/test_finetune.py", "parts of one fine-tuning"),
    "train/{objectives/answers,reference}.py": (
        "tests/train/test_dpo.py",
        "parts of one objective",
    ),
    "cli/{convert,serve,train}.py": (
        "tests/cli/test_main.py",
        "a command is run as users run it",
    ),
    "infer/{allowance,prompt_parts,turns}.py": (
        "tests/infer/test_scheduler.py",
        "parts of one scheduler",
    ),
    "infer/{native,torch}_adapters.py": ("tests/infer/test_adapters.py", "equal to each other"),
    "cli/compat.py": ("tests/compat/test_megatron.py", "run as users run it"),
    "compat/{arguments,launch}.py": ("tests/compat/test_megatron.py", "parts of a translation"),
    "train/packed/modules.py": ("tests/train/packed/test_place.py", "what it puts in"),
    "train/run_data.py": ("tests/train/test_setup.py", "what a run reads, opened by its set-up"),
    "compat/{commands,conditions,effects,expand,lexer}.py": (
        "tests/compat/test_script.py",
        "parts of one reading",
    ),
    "cli/bench_serve.py": ("tests/eval/serving/test_bench.py", "run as users run it"),
    "eval/code/inside/{cell,filter}.py": (
        "tests/eval/code/test_sandbox.py",
        "attacked from inside",
    ),
    "eval/code/inside/{answer,checker,wire}.py": (
        "tests/eval/code/test_judge.py",
        "two ends of one connection",
    ),
    "infer/{native_adapters,torch_adapters}.py": (
        "tests/infer/test_adapters.py",
        "what each makes of an adapter is compared with the other",
    ),
    "checkpoint/open.py": ("tests/infer/test_open.py", "every kind of checkpoint, opened"),
    "checkpoint/{checks,inventory,sink,slices,source}.py": (
        "tests/convert/test_plan.py",
        "one interface to all formats",
    ),
    "checkpoint/adapter/names.py": (
        "tests/checkpoint/adapter/test_read.py",
        "written by one side, read by the other",
    ),
    "checkpoint/dcp/local.py": ("tests/train/parallel/test_layouts.py", "parts need ranks"),
    "checkpoint/dcp/{layout,metadata,names,sink,writer}.py": (
        "tests/checkpoint/dcp/test_folder.py",
        "written by one side, read by the other",
    ),
    "checkpoint/gguf/{layout,metadata,names,package,vocabulary}.py": (
        "tests/checkpoint/gguf/test_sink.py",
        "written and read back",
    ),
    "checkpoint/hf/{names,shard_folder,source}.py": (
        "tests/checkpoint/hf/test_folder.py",
        "read by its folder",
    ),
    "checkpoint/hf/{auto_map,layouts,sink}.py": (
        "tests/convert/test_plan.py",
        "written by a conversion",
    ),
    "checkpoint/hf/checksums.py": ("tests/convert/test_verify.py", "written, then checked"),
    "checkpoint/megatron/{args,names,sink}.py": (
        "tests/checkpoint/megatron/test_source.py",
        "written and read back",
    ),
    "checkpoint/packed/{matrices,names,sink,source}.py": (
        "tests/checkpoint/packed/test_folder.py",
        "written and read back",
    ),
    "checkpoint/raw/{shards,torch_zip}.py": (
        "tests/checkpoint/dcp/test_folder.py",
        "the data files of DCP",
    ),
    "checkpoint/raw/gguf_header.py": ("tests/checkpoint/gguf/test_source.py", "by damage"),
    "data/{folder,parquet,plaintext,tally}.py": (
        "tests/data/test_corpus.py",
        "the parts of one corpus",
    ),
    "cli/{chat_commands,chat_models,chat_screen,chat_tools}.py": (
        "tests/cli/test_chat.py",
        "the parts of one command",
    ),
    "config/{checks,optim,parallel}.py": ("tests/config/test_recipe.py", "sections of a recipe"),
    "train/parallel/{apply,experts,mesh,pipeline,reduce,shard}.py": (
        "tests/train/parallel/test_layouts.py",
        "one training on several ranks",
    ),
    "plan/compute.py": ("tests/plan/test_estimate.py", "seconds of a step"),
    "plan/{gpus,plot,table}.py": ("tests/cli/test_plan.py", "what the command reads and shows"),
    "train/recompute.py": ("tests/train/parallel/test_layouts.py", "losses stay the same"),
    "config/{recipe_docs,recipe_file}.py": ("tests/config/test_recipe_files.py", "one schema"),
    "ops/machine.py": ("tests/ops/test_doctor.py", "what the report reads"),
    "serve/{server,sockets}.py": ("tests/serve/test_app.py", "a server in a process of its own"),
    "serve/{fields,published}.py": ("tests/serve/test_schema.py", "the schema's parts"),
    "serve/schema/{history,structured,tools}.py": (
        "tests/serve/test_converse.py",
        "what reaches the model of them",
    ),
    "serve/schema/{chat,common,completion,plain_json,text,values}.py": (
        "tests/serve/test_schema.py",
        "every field asked wrongly",
    ),
    "serve/routes/{chat,completions,router,status,text}.py": (
        "tests/serve/test_routes.py",
        "the endpoints of one app",
    ),
    "serve/conversation.py": ("tests/serve/test_converse.py", "on the way to a reply"),
    "serve/schema/sparse.py": ("tests/serve/test_routed.py", "fields that are left out"),
    "serve/{chat_shape,completion_shape}.py": ("tests/serve/test_stream.py", "what is streamed"),
    "serve/{messages_shape,routes/messages}.py": ("tests/serve/test_messages.py", "one endpoint"),
    "serve/schema/{messages,messages_blocks,messages_options}.py": (
        "tests/serve/test_messages.py",
        "what is asked and answered",
    ),
    "serve/{responses_shape,transcript_builder,routes/responses}.py": (
        "tests/serve/test_responses.py",
        "one endpoint",
    ),
    "serve/schema/{items,responses,responses_items,responses_options}.py": (
        "tests/serve/test_responses.py",
        "what is asked and answered",
    ),
    "serve/admission.py": ("tests/serve/test_reply.py", "what reaches the engine"),
    "data/packages/texts/{bible,brown,chatterbot,chitchat,dialogue,gcide,gzipped}.py": (
        "tests/data/packages/test_texts.py",
        "a few lines of each package",
    ),
    "data/packages/texts/{human_eval,python_docs,shakespeare,wordnet}.py": (
        "tests/data/packages/test_texts.py",
        "a few lines of each package",
    ),
    "data/{join,measure,parts,plan,split,tokenise}.py": (
        "tests/data/test_prepare.py",
        "the stages of one preparation",
    ),
    "data/conversations/{fields,formats,parts,talk,token_ids,types}.py": (
        "tests/data/conversations/test_records.py",
        "records of files of each format",
    ),
    "data/conversations/{batches,preparation,report,store}.py": (
        "tests/data/conversations/test_chat_data.py",
        "from files to rows",
    ),
    "data/conversations/rendered.py": (
        "tests/data/conversations/test_supervise.py",
        "which characters are said",
    ),
    "data/conversations/{check,template}.py": ("tests/cli/test_data_check.py", "as it calls them"),
    "data/reading.py": ("tests/data/test_units.py", "all of a corpus against its units"),
    "convert/{options,probe,ranks,repack,target,transfer}.py": (
        "tests/convert/test_plan.py",
        "the parts of one conversion",
    ),
    "eval/bench_{engine,report,start}.py": (
        "tests/eval/test_bench_infer.py",
        "one benchmark, measured end to end",
    ),
    "eval/results_plot.py": ("tests/eval/test_results.py", "the picture of results"),
    "eval/tasks/files.py": ("tests/eval/tasks/test_text.py", "which files a text is"),
    "eval/tasks/harness_model.py": ("tests/interop/test_lm_eval.py", "called by lm-eval"),
    "eval/tasks/suites.py": ("tests/eval/tasks/test_named.py", "each named without its file"),
    "eval/draft_gain.py": ("tests/nano/test_card.py", "measured for the card"),
    "eval/needle_{plot,rows}.py": ("tests/eval/test_needle.py", "rows, and the picture of shares"),
    "cli/needle.py": ("tests/eval/test_needle.py", "the command beside what it calls"),
    "eval/noise_cache.py": ("tests/eval/test_bench_infer.py", "decoded behind"),
    "eval/peer_text_bits.py": ("tests/nano/test_peer.py", "runs inside llama.cpp's Python"),
    "eval/tasks/task.py": ("tests/eval/tasks/test_named.py", "tasks by name"),
    "eval/wsm_plot.py": ("tests/eval/test_wsm.py", "the picture of one comparison"),
    "nano/{checkpoints,held_out,page,pictures,questions}.py": (
        "tests/nano/test_card.py",
        "the parts of one card",
    ),
    "eval/peer_llama.py": ("tests/interop/test_llama_cpp.py", "runs inside llama.cpp's Python"),
    "hub/{huggingface,modelscope}.py": (
        "tests/hub/test_download.py",
        "both hubs pass the same tests",
    ),
    "eval/{dense_ratio,fp8_curves}.py": (
        "tests/reproduce/claims/test_measured.py",
        "what two claims are measured with",
    ),
    "reproduce/claims/{conversion,fp8_exact,fp8_states,kv_bytes,laws}.py": (
        "tests/reproduce/claims/test_counted.py",
        "counted in seconds",
    ),
    "reproduce/claims/{leverage,merge_weights,pipeline,prediction,sizes}.py": (
        "tests/reproduce/claims/test_counted.py",
        "counted in seconds",
    ),
    "reproduce/claims/{balance,decode,fp8_loss,mtp,needle,throughput,wsm}.py": (
        "tests/reproduce/claims/test_measured.py",
        "measured at a tiny scale",
    ),
    "reproduce/{small_runs,picture}.py": (
        "tests/reproduce/claims/test_measured.py",
        "what claims are measured and drawn with",
    ),
    "reproduce/{claim,registry}.py": ("tests/reproduce/test_run.py", "claims by name, run"),
    "cli/reproduce.py": ("tests/reproduce/test_run.py", "run as users run it"),
    "nano/plan.py": ("tests/nano/test_make.py", "all stages, and what is refused"),
    "nano/dialogues/{dates,facts,knowledge,lists,numbers,tools_time,tools_values}.py": (
        "tests/nano/dialogues/test_answers.py",
        "what is answered is right",
    ),
    "nano/dialogues/{copying,identity,said,smalltalk,unknown,writing}.py": (
        "tests/nano/dialogues/test_answers.py",
        "what is said again is what was said, and tables can be read",
    ),
    "nano/dialogues/{arithmetic,definitions,draw,turns,words}.py": (
        "tests/nano/dialogues/test_answers.py",
        "a turn of each",
    ),
    "nano/dialogues/{memory,offered,tools,tools_home,tools_text}.py": (
        "tests/nano/dialogues/test_mix.py",
        "calls of records fit the tools",
    ),
    "ops/native_causal.py": ("tests/ops/test_causal.py", "the same functions, one floor above"),
    "plugins/hf_{attend,batch,folder,hook,model,output,tokenizer,weights}.py": (
        "tests/interop/test_transformers.py",
        "called by transformers",
    ),
    "plugins/hf_adapter.py": ("tests/interop/test_transformers_adapters.py", "called by peft"),
    "plugins/vllm_{models,mtp}.py": ("tests/interop/test_vllm.py", "called by vLLM"),
    "plugins/{sglang,sglang_config}.py": (
        "tests/plugins/test_hf_config.py",
        "called by SGLang",
    ),
    "plugins/deploy_{command,files,folder}.py": (
        "tests/plugins/test_deploy.py",
        "the parts of one command",
    ),
    "plugins/engine_flags.py": ("tests/plugins/test_deploy.py", "its only caller"),
}


def test_every_source_file_has_its_test_file():
    untested = {name for name in MODULES if behaves(tree(name)) and not own_tests(name)}
    together = [name for names in TESTED_TOGETHER for name in expanded(names)]
    assert not untested - set(together), "no test file"
    assert not set(together) - untested, "has its own test file, or is gone"
    for test, _ in TESTED_TOGETHER.values():
        assert (ROOT / test).is_file(), f"{test} is gone"


def expanded(names: str) -> list[str]:
    """`a/{b,c}.py` as the shell expands it."""
    before, brace, rest = names.partition("{")
    inside, _, after = rest.partition("}")
    return [before + name + after for name in inside.split(",")] if brace else [names]


def behaves(node: ast.AST) -> bool:
    """Whether there is a function outside of a `Protocol`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and any(
            ast.unparse(base).startswith("Protocol") for base in child.bases
        ):
            continue
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or behaves(child):
            return True
    return False


def own_tests(name: str) -> list[Path]:
    folder, stem = ROOT / "tests" / Path(name).parent, Path(name).stem
    return [*folder.glob(f"test_{stem}.py"), *folder.glob(f"test_{stem}_*.py")]
