# SPDX-License-Identifier: MIT
"""The GPU backend on a GPU: `make check-gpu`, or ./run-gpu-suite in a bundle (make_bundle.py). B names the build folder.
Kernels against their formulas, the same under compute-sanitizer where that is, golden models through the plugin, the end-to-end
tests that fit with devices cuda, traps and hangs, AT_ONCE of them at a time: none fills a GPU, and a trap spoils its own process
only. Ends with a table and 'N passed, N failed'.

  --look   is there a GPU that the backend can use? One line and exit status 77: no
  --fake   what needs no GPU: the end-to-end tests on the CPU and on the fake GPU"""
import contextlib
import ctypes
import glob
import importlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ["B"])
BINARY = BUILD / "bin/tokenlane"
OPS = BUILD / "gpu/ops"
# what runs with devices cuda, and the package that a file needs beside pytest, httpx and prometheus_client
END_TO_END = {"test_openai.py": "openai", "test_batch.py": None, "test_text.py": "tokenizers", "test_large.py": None}
FAULTS, VECTORS = "test_cuda_serving.py", "test_cuda_vectors.py"
LIMIT_S = 600
AT_ONCE = min(4, os.cpu_count())
NO_GPU = 77


def why_no_gpu():
    """None: there is one."""
    asked = subprocess.run([BINARY, "check-config", "--model.path", ROOT / "config/demo/model", "--devices", "cuda"],
                           capture_output=True, text=True)
    return (asked.stderr or asked.stdout).strip().removeprefix("tokenlane: ") if asked.returncode else None


LIVE = set()  # process groups of the parts that run


def end_group(leader):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def end_all(number, _):
    for leader in list(LIVE):
        end_group(leader)
    os._exit(128 + number)


def run(command, **environment):
    """(seconds, exit status, output). What the command has started ends with it: a hung daemon would keep the GPU from the parts behind."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:  # a pipe would be held by what is left behind
        try:
            process = subprocess.Popen(list(map(str, command)), cwd=ROOT, env={**os.environ, **environment}, stdout=output,
                                       stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            return 0, 127, f"{error}\n"
        LIVE.add(process.pid)
        status, late = 124, f"\nno end after {LIMIT_S} s\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            status, late = process.wait(LIMIT_S), ""
        seconds = time.monotonic() - began
        end_group(process.pid)
        process.wait()
        LIVE.discard(process.pid)
        output.seek(0)
        return seconds, status, output.read().decode(errors="replace") + late


def count(output, status, passed, failed):
    """How many passed and failed; a run that died without saying so is a failure."""
    good = sum(int(n) for n in re.findall(passed, output))
    bad = sum(int(n) for n in re.findall(failed, output))
    return good, bad or int(status != 0)


class Table:
    """Parts are begun in the order in which they are added, and told as they end."""

    def __init__(self):
        self.parts, self.rows, self.skipped = ThreadPoolExecutor(AT_ONCE), [], []

    def add(self, name, command, passed, failed, show=False, **environment):
        def part():
            seconds, status, output = run(command, **environment)
            good, bad = count(output, status, passed, failed)
            print(f"{name}: {good} passed, {bad} failed" + (bad or show) * f"\n{output}", flush=True)
            return name, seconds, good, bad

        self.rows.append(self.parts.submit(part))

    def program(self, name, command, show=False):
        self.add(name, command, r"PASSED  \] (\d+) test", r"FAILED  \] (\d+) test", TL_TEST_GOLDEN=str(ROOT / "tests/golden"),
                 TL_TEST_PLUGIN_DIR=str(BUILD / "lib"), show=show)

    def pytest(self, name, files, **environment):
        if sys.version_info < (3, 11) and (ROOT / "python").exists():
            self.skipped.append(f"{name}: the packages of this bundle need Python 3.11, this is {sys.version.split()[0]}")
            return
        for file in files:
            self.add(f"{name}: {file}", [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/e2e/{file}"],
                     r"(\d+) passed", r"(\d+) (?:failed|error)", TOKENLANE_BIN=str(BINARY), **environment)

    def end(self):
        rows = [row.result() for row in self.rows]
        print(f"\n{'':44} {'seconds':>8} {'passed':>7} {'failed':>7}")
        for name, seconds, passed, failed in rows:
            print(f"{name:44} {seconds:8.1f} {passed:7} {failed:7}")
        for line in self.skipped + [f"{name}: all its tests skip" for name, _, passed, failed in rows if not passed + failed]:
            print(f"not run: {line}")
        failed = sum(row[3] for row in rows)
        print(f"{sum(row[2] for row in rows)} passed, {failed} failed")
        return int(failed > 0)


def end_to_end(table):
    """The files that this Python has the packages for, and what these want."""
    files = []
    for file, package in END_TO_END.items():
        try:
            if package:
                importlib.import_module(package)
            files.append(file)
        except ImportError as missing:
            table.skipped.append(f"{file}: the Python package {package} is not here or lacks something: {missing}")
    return files


def has_cudnn():
    """Where the plugin looks for it."""
    for folder in ("", "/usr/local/cuda/lib64/", "/usr/local/cuda/lib/"):
        try:
            ctypes.CDLL(f"{folder}libcudnn_graph.so.9")
            return True
        except OSError:
            pass
    return False


def sanitizer():
    found = shutil.which("compute-sanitizer")
    return found or next(iter(glob.glob("/usr/local/cuda*/bin/compute-sanitizer")), None)


def on_gpu(table):
    """What takes longest first."""
    _, status, names = run([OPS])
    ops = names.split() if status == 2 else []  # who is asked for no test names them all
    table.pytest("end to end", end_to_end(table), TOKENLANE_DEVICES="cuda")
    table.pytest("traps and hangs", [FAULTS], TOKENLANE_GPU_PLUGIN=str(BUILD / "gpu/fault"))
    table.pytest("vectors", [VECTORS], TOKENLANE_GPU_PLUGIN=str(BUILD / "gpu/fault"))
    table.program("golden models", [BUILD / "gpu/test_cuda_model"])
    table.program("golden encoders", [BUILD / "gpu/test_cuda_encoders"])
    for name in ops:
        table.program(name, [OPS, name])
    if not ops:
        table.program("kernels", [OPS])  # not here, or not for this machine: that is a failure
    tool = sanitizer()
    for kind in ("racecheck", "memcheck") if tool else ():
        for name in ops:
            if (kind, name) == ("racecheck", "test_op_sample"):
                table.skipped.append("racecheck test_op_sample: it did not end in the minute that it was given on an H200")
            elif name != "test_op_model":  # the same kernels once more, and hours of them
                table.program(f"{kind} {name}", [tool, "--tool", kind, "--error-exitcode", "9", OPS, name])
    if not tool:
        table.skipped.append("compute-sanitizer: it is not here")
    if has_cudnn():
        program = BUILD / "gpu/test_cuda_sdpa"
        for name in ("test_whole", "test_several") if tool else ():  # what it writes elsewhere, no comparison of results shows
            table.program(f"memcheck attention by cuDNN, {name}", [tool, "--tool", "memcheck", "--error-exitcode", "9", program, name])
        table.program("attention by cuDNN", [program], show=True)
    else:
        table.skipped.append("attention by cuDNN: no libcudnn_graph.so.9")


def on_fake(table):
    table.pytest("end to end, CPU", end_to_end(table))
    table.pytest("end to end, fake GPU", [FAULTS, VECTORS])


def main():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_all)
    table = Table()
    if "--fake" in sys.argv:
        on_fake(table)
        sys.exit(table.end())
    why = why_no_gpu()
    if why:
        print(f"check-gpu: no GPU: {why}")
        sys.exit(NO_GPU)
    if "--look" not in sys.argv:
        on_gpu(table)
        sys.exit(table.end())


if __name__ == "__main__":
    main()
