"""Our figures beside those of llama.cpp and OpenVINO GenAI: same machine, model and load, interleaved.

`python -m benchmarks.peers --help` tells how to run it; docs/performance.md what the figures mean.
"""
