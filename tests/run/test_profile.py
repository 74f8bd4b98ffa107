"""debug=profile: a trace, a table, and no effect on the run."""

from __future__ import annotations

import json
from pathlib import Path

from tests.harness import runs
from tests.harness.tensors import equal


def test_a_profiled_run_leaves_a_trace_and_a_table_and_the_same_weights(tmp_path: Path) -> None:
    words = ("debug=profile", "model.width=4", "report=never")
    ended = runs.train(tmp_path, *words, "trainer.profile_steps=3", f"hydra.run.dir={tmp_path / 'profiled'}")
    assert ended.code == 0, ended.err
    assert runs.train(tmp_path, *words, "trainer.profile_steps=null", f"hydra.run.dir={tmp_path / 'plain'}").code == 0
    names = {
        event.get("name") for event in json.loads((tmp_path / "profiled/profile/trace.json").read_text())["traceEvents"]
    }
    assert {"aten::convolution", "ProfilerStep#13"} <= names
    table = (tmp_path / "profiled/profile/operations.txt").read_text().splitlines()
    assert table[0] == "the 10 dearest operations on the CPU, per step, from 3 steps"
    assert len(table[2:12]) == 10
    shares = [float(line.split()[-1].rstrip("%")) for line in table[2:12]]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.5
    assert table[13].startswith("from one step to the next, at full speed: median ")
    assert max(map(len, table)) <= 100
    assert all(line in ended.out for line in table if line)
    weights = [(tmp_path / name / "last.safetensors").read_bytes() for name in ("profiled", "plain")]
    assert equal(*weights)
