#!/bin/sh
# The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer: builds csrc with both in a copy, and runs the op
# tests on it with each of the kernels' instruction sets. Then plants an access out of bounds, which must be found. Ends
# with 0 where nothing else was. PYTHON names the interpreter (python3).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
compiler=${CXX:-g++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tests"
cp -r "$root/advrbd_plugin" "$root/csrc" "$root/setup.py" "$work"
cp -r "$root/tests/conftest.py" "$root/tests/ops" "$work/tests"
rm -f "$work"/advrbd_plugin/*.so
cd "$work"

build() {
  flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
  CFLAGS="$flags" CXXFLAGS="$flags" LDFLAGS="-fsanitize=address,undefined" ADVRBD_CUDA=0 \
    "$python" setup.py -q build_ext --inplace > build.log 2>&1 && ls advrbd_plugin/libadvrbd_cpu.so > /dev/null \
    || { tail -n 30 build.log; exit 1; }
}

test_ops() {
  # What Python itself never frees is no leak of ours. The sanitizers write to descriptor 2, which pytest must leave alone.
  LD_PRELOAD="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH="$work" ATEN_CPU_CAPABILITY="$1" \
    "$python" -m pytest -q -x -p no:cacheprovider --import-mode=importlib --capture=sys \
    tests/ops/test_kernels.py tests/ops/test_properties.py
}

build
for capability in default avx2 avx512; do
  test_ops "$capability"
done
echo "nothing was found"

"$python" - <<'PLANT'
from pathlib import Path

file = Path("csrc/cpu/kernels/perturb.h")
text, planted = "for (; i + kEight <= values; i += kEight)", "for (; i < values; i += kEight)"
assert text in file.read_text(), f"{file} has changed: plant the access elsewhere"
file.write_text(file.read_text().replace(text, planted))
PLANT
build
if test_ops avx512 > test.log 2>&1 || ! grep -m 1 "AddressSanitizer: heap-buffer-overflow" test.log; then
  tail -n 30 test.log
  echo "the planted access out of bounds was not found"
  exit 1
fi
echo "the planted access out of bounds was found"
