from __future__ import annotations

import pytest

from ling.eval.serving.drive import Measurement
from ling.eval.serving.replies import Reply
from ling.eval.serving.report import fault_lines, ratios, summary, table
from ling.ops.processes import Usage


def reply(first_s: float, gap_s: float, tokens: int = 5, **fields) -> Reply:
    events = [10 + first_s + i * gap_s for i in range(tokens)]
    found = Reply(asked=5, sent_s=10.0, end_s=events[-1], events_s=events, prompt_tokens=20)
    found.completion_tokens = tokens
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def measurement(*replies: Reply, wall_s: float = 2.0, cpu_s: float = 0.1) -> Measurement:
    return Measurement(
        replies=list(replies),
        wall_s=wall_s,
        before=Usage(1.0, 1 << 30, 1 << 30),
        after=Usage(1.0 + cpu_s, 2 * 10**9, 3 * 10**9),
        client_cpu_s=0.01,
        taken=0.0,
    )


def test_rates_and_times_are_those_of_whole_answers():
    wrong = reply(9.0, 9.0, fault="error event", detail="not finite")
    row = summary([measurement(reply(0.1, 0.02), reply(0.3, 0.04), wrong)])
    assert (row["requests"], row["completed"]) == (3, 2)
    assert row["faults"] == {"error event": 1}
    assert row["output_tokens_per_s"] == 10 / 2.0
    assert row["total_tokens_per_s"] == 50 / 2.0
    assert row["requests_per_s"] == 1.0
    assert row["ttft_ms_p50"] == pytest.approx(200)
    assert row["ttft_ms_p99"] == pytest.approx(298)
    assert row["itl_ms_p50"] == pytest.approx(30)
    assert row["tpot_ms_mean"] == pytest.approx(30)
    assert row["server_cpu_ms_per_token"] == pytest.approx(10)
    assert (row["server_rss_gb"], row["server_peak_rss_gb"]) == (2.0, 3.0)
    assert row["tokens_counted_by"] == "usage"


def test_several_measurements_are_pooled_and_their_rate_is_the_median():
    parts = [measurement(reply(0.1 * k, 0.02), wall_s=float(k)) for k in (1, 2, 3)]
    row = summary(parts)
    assert row["output_tokens_per_s"] == 2.5
    assert row["samples"] == [5.0, 2.5, pytest.approx(5 / 3)]
    assert row["ttft_ms_p50"] == pytest.approx(200)


def test_nothing_whole_and_an_unseen_server_leave_gaps_not_zeros():
    nothing = measurement(reply(0.1, 0.1, fault="HTTP 429", status=429))
    nothing.before = None
    row = summary([nothing])
    assert row["ttft_ms_p50"] is None
    assert "server_cpu_s" not in row
    assert row["refused_ms_p99"] == pytest.approx(500)
    assert "-" in table([{"name": "all at once", "ours": {"server": "m", **row}}])[1]


def test_probes_that_fail_are_counted_beside_the_times_of_the_others():
    found = measurement(reply(0.1, 0.1))
    found.probes_s = {"/health": [0.010, 0.030, float("inf")]}
    row = summary([found])
    assert row["health_ms_p50"] == pytest.approx(20)
    assert row["health_failed"] == 1


def test_ratios_are_of_neighbours():
    ours = [measurement(reply(0.1, 0.01), wall_s=w) for w in (1.0, 2.0, 4.0)]
    theirs = [measurement(reply(0.2, 0.04), wall_s=w) for w in (2.0, 4.0, 8.0)]
    row = ratios(ours, theirs)
    assert row["output_tokens_per_s"] == 2.0
    assert row["output_tokens_per_s_interval"] == (2.0, 2.0)
    assert row["ttft_ms_p50"] == pytest.approx(0.5)
    assert row["itl_ms_p99"] == pytest.approx(0.25)
    theirs[0].after = None
    assert "server_cpu_ms_per_token" not in ratios(ours, theirs)


def test_the_table_has_a_row_for_each_server_and_the_ratio():
    ours, theirs = [measurement(reply(0.1, 0.01))], [measurement(reply(0.2, 0.02), wall_s=4.0)]
    wrong = measurement(reply(0.1, 0.1), reply(1, 1, fault="error event", detail="not finite"))
    point = {
        "name": "8 streams",
        "ours": {"server": "a", **summary(ours)},
        "theirs": {"server": "b", **summary([*theirs, wrong])},
        "ratio": ratios(ours, theirs),
    }
    lines = table([point])
    assert lines[0].split()[:2] == ["tokens/s", "req/s"]
    assert lines[1].startswith("8 streams, a ")
    assert lines[1].endswith("1/1")
    assert lines[1].split()[3:5] == ["2.5", "0.50"]
    assert lines[2].endswith("2/3")
    assert lines[3].startswith("8 streams, ratio")
    assert "2.00" in lines[3]
    assert fault_lines([point]) == ["8 streams, b: 1 × error event (not finite)"]
