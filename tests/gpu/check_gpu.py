# SPDX-License-Identifier: MIT
"""The GPU backend on a GPU: `make check-gpu`. B names the build folder. Kernels against their formulas, golden models
through the plugin, the end-to-end tests that fit with devices cuda. Ends with a table and 'N passed, N failed'."""
import glob
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ["B"])
BINARY = BUILD / "bin/tokenlane"
END_TO_END = ["test_openai.py", "test_batch.py", "test_text.py", "test_large.py"]
LIMIT_S = 600


def refuse_without_gpu():
    asked = subprocess.run([BINARY, "check-config", "--model.path", ROOT / "config/demo/model", "--devices", "cuda"],
                           capture_output=True, text=True)
    if asked.returncode:
        sys.exit(f"check-gpu: {(asked.stderr or asked.stdout).strip()}")


def run(command, **environment):
    """(seconds, exit status, output)"""
    began = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, timeout=LIMIT_S, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return time.monotonic() - began, done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        return LIMIT_S, 124, (late.stdout or b"").decode(errors="replace") + f"\nno end after {LIMIT_S} s\n"


def count(output, status, passed, failed):
    """How many passed and failed; a run that died without saying so is a failure."""
    good = sum(int(n) for n in re.findall(passed, output))
    bad = sum(int(n) for n in re.findall(failed, output))
    return good, bad or int(status != 0)


def main():
    refuse_without_gpu()
    rows = []
    for test in sorted(glob.glob(str(BUILD / "gpu/test_*"))):
        if test.endswith(".d"):
            continue
        seconds, status, output = run([test], TL_TEST_GOLDEN="tests/golden", TL_TEST_PLUGIN_DIR=str(BUILD / "lib"))
        rows.append((pathlib.Path(test).name, seconds, *count(output, status, r"PASSED  \] (\d+) test", r"FAILED  \] (\d+) test"),
                     output))
    tests = [f"tests/e2e/{name}" for name in END_TO_END]
    seconds, status, output = run([sys.executable, "-m", "pytest", "-q", *tests], TOKENLANE_BIN=str(BINARY),
                                  TOKENLANE_DEVICES="cuda")
    rows.append(("end to end", seconds, *count(output, status, r"(\d+) passed", r"(\d+) (?:failed|error)"), output))
    for name, _, _, failed, output in rows:
        if failed:
            print(f"--- {name}\n{output}")
    print(f"{'':24} {'seconds':>8} {'passed':>7} {'failed':>7}")
    for name, seconds, passed, failed, _ in rows:
        print(f"{name:24} {seconds:8.1f} {passed:7} {failed:7}")
    failed = sum(row[3] for row in rows)
    print(f"{sum(row[2] for row in rows)} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
