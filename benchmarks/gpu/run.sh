#!/bin/sh
# Builds, checks, times and trains on the GPU that is there: docs/gpu.md. Results go to $OUT, else to out/gpu.
set -eu
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" benchmarks/gpu/run.py "$@"
