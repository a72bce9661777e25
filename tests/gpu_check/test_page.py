from __future__ import annotations

from gpu_check.record import Record

from gpu_check import page


def test_the_committed_page_is_that_of_the_newest_committed_results():
    assert page.PAGE.read_text() == page.page(page.newest_results()), "scripts/gpu_check --page"


def test_without_results_the_page_says_exactly_that(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    page.write_page(None, tmp_path / "evidence" / "gpu.md")
    text = (tmp_path / "evidence" / "gpu.md").read_text()
    assert "Nothing has been measured yet" in text


def test_the_newest_results_are_the_last_by_date(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    for day in ("2027-01-02", "2026-12-30"):
        (tmp_path / f"{day}-gpu-check-h100.json").touch()
    assert page.newest_results().name == "2027-01-02-gpu-check-h100.json"


def setting(layers, seconds, model="ling-mini-2.0", mtp=False, ep8_share=False):
    return {
        "name": f"{model} {layers} {mtp} {ep8_share}",
        "status": "ok",
        "model": model,
        "layers": layers,
        "seq_length": 4096,
        "fp8": False,
        "mtp": mtp,
        "recompute": "none",
        "ep8_share": ep8_share,
        "seconds_each": seconds,
        "tokens_per_s": 4096 / seconds,
        "flops_per_s": 2e14,
        "peak_bytes": 3e10,
    }


def test_a_whole_model_is_the_shallow_one_and_the_layers_that_it_lacks(tmp_path):
    record = Record(tmp_path / "found.json", tiny=False, machine=MACHINE)
    record.begin("training", 9)
    for entry in (
        setting(2, 0.100),
        setting(4, 0.120),
        setting(2, 0.100, "qwen3-8b"),
        setting(4, 0.160, "qwen3-8b"),
        setting(20, 0.2, ep8_share=True),
    ):
        record.add("training", entry)
    record.end("training", "done", 3)
    rows = page.page(record.path).splitlines()
    (ling,) = (row for row in rows if row.startswith("| ling-mini-2.0 |"))
    # 0.1 s + 18 layers of 10 ms, and 0.1 s + 34 layers of 30 ms of the dense one.
    assert ling.split(" | ")[4:9] == ["100.0 ms", "120.0 ms", "10.00 ms", "14,629", "4.00"]
    assert "| bf16 | no | 20,480 | 200 | 30.0 GB |" in rows


MACHINE = {
    "gpu": {"name": "a GPU", "memory": "80 GiB", "driver": "1.2"},
    "torch": "2.11",
    "cuda": "13",
    "triton": "3.6",
    "python": "3.12",
    "cpu": {"model": "a CPU"},
    "commit": None,
    "source": "abc",
}


def test_what_is_not_as_it_should_be_is_told_with_its_reason(tmp_path):
    record = Record(tmp_path / "found.json", tiny=False, machine=MACHINE)
    record.begin("parity", 9)
    record.add("parity", {"name": "logits", "status": "wrong", "error": 0.5, "limit": 1e-4})
    record.add("parity", {"name": "grouped", "status": "failed", "error": "RuntimeError: a | b"})
    record.end("parity", "timeout", 9)
    text = page.page(record.path)
    assert "| parity: logits | wrong | error 0.5, limit 0.0001 |" in text
    assert "| parity: grouped | failed | RuntimeError: a \\| b |" in text
    assert "| GPU | a GPU |" in text
    assert "| commit | sources abc |" in text
