"""Generates with OpenVINO GenAI in a process of its own: a line of JSON in, a line of JSON out.

Runs in OpenVINO's environment, which has nothing of this project: `python openvino_worker.py MODEL_FOLDER CACHE_GB`.
In:  `{"prompts": [[ids], ...], "at_s": [seconds to wait before each], "new_tokens": [n, ...]}`.
Out: `{"traces": [{"sent": s, "times": [seconds of each token]}, ...], "wall_s": s}`, times since the line was read.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai


def make_pipeline(folder: str, cache_gb: int) -> Any:
    """The continuous batching pipeline, as its own server sample has it, prefix caching off."""
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = cache_gb
    scheduler.max_num_seqs = 64
    scheduler.max_num_batched_tokens = 256
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = False
    return genai.ContinuousBatchingPipeline(folder, scheduler, "CPU")


def generate(pipeline: Any, job: dict[str, Any]) -> dict[str, Any]:
    """All prompts of a job, each added at its time, to the end."""
    due = sorted(enumerate(job["at_s"]), key=lambda pair: pair[1])
    traces: list[dict[str, Any]] = [{"sent": at_s, "times": []} for at_s in job["at_s"]]
    handles: dict[int, Any] = {}
    start = time.perf_counter()
    while due or handles:
        while due and due[0][1] <= time.perf_counter() - start:
            index, _ = due.pop(0)
            ids = ov.Tensor(np.array([job["prompts"][index]], dtype=np.int64))
            config = genai.GenerationConfig()
            config.max_new_tokens = job["new_tokens"][index]
            config.ignore_eos = True
            config.do_sample = False
            handles[index] = pipeline.add_request(index, ids, config)
        if not handles:
            time.sleep(0.001)
            continue
        pipeline.step()
        now = time.perf_counter() - start
        for index, handle in list(handles.items()):
            while handle.can_read():
                for output in handle.read().values():
                    traces[index]["times"] += [now] * len(output.generated_ids)
            if len(traces[index]["times"]) >= job["new_tokens"][index]:
                del handles[index]
    return {"traces": traces, "wall_s": time.perf_counter() - start}


def main() -> None:
    """Load, say so, then answer every line."""
    pipeline = make_pipeline(sys.argv[1], int(sys.argv[2]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(generate(pipeline, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
