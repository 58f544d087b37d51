"""Reading on and on takes no more memory: neither the state, nor the process, nor what a call leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tiny_models import make_model

TURNS = 20_000
CALLS = 20
# Allocators round and keep some of what they freed. Were 400 bytes of a turn kept, 10,000 turns would pass this.
SLACK_BYTES = 4 * 2**20

# A process of its own, because the peak of this one may lie in an earlier test.
_READING = """
import json, resource, sys
from evoemb import EvoEmbedding

model = EvoEmbedding(sys.argv[1], device="cpu")
turns, calls = int(sys.argv[2]), int(sys.argv[3])
state = model.new_state()
share = [f"i moved to {['paris', 'rome', 'lyon', 'oslo'][number % 4]}" for number in range(turns // calls)]
peaks, sizes = [], []
for _ in range(calls):
    model.encode(share, stateful=True, state=state, batch_size=256)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    sizes.append(state.nbytes + state.cache_nbytes)
embeddings = model.encode(share * (calls // 2), stateful=True, batch_size=256)
whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"turns": state.num_turns, "peaks": peaks, "sizes": sizes, "whole": whole, "n": len(embeddings)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="peaks are measured with the resource module of POSIX systems")
@pytest.mark.parametrize(("kind", "reader"), [("bert", "attention"), ("llama", "prefix")])
def test_reading_20_000_turns_holds_peak_memory_flat(base_folder, tmp_path, kind, reader):
    memory = {"memory_layers": 1} if reader == "attention" else {"segment_turns": 16, "segment_tokens": 2048}
    make_model(base_folder(kind), reader, num_latents=1, capacity_latents=4, **memory).save_pretrained(str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", _READING, str(tmp_path), str(TURNS), str(CALLS)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["turns"], found["n"]) == (TURNS, TURNS // 2)
    half = CALLS // 2
    assert found["peaks"][-1] - found["peaks"][half - 1] < SLACK_BYTES
    assert max(found["sizes"][half:]) <= max(found["sizes"][:half])
    # One call over many turns holds its results, rows and stacked: small tensors of about a kilobyte each.
    assert found["whole"] - found["peaks"][-1] < 3000 * found["n"]
