# SPDX-License-Identifier: MIT
"""The GPU backend on a GPU: `make check-gpu`, or ./run-gpu-suite in a bundle (make_bundle.py). B names the build folder.
Kernels against their formulas, the same under compute-sanitizer where that is, golden models through the plugin, the end-to-end
tests that fit with devices cuda, traps and hangs, AT_ONCE of them at a time: none fills a GPU, and a trap spoils its own process
only. Begins with what the machine is, ends with a table and 'N passed, N failed', and if any did, with what the driver says.

  --look   is there a GPU that the backend can use? One line and exit status 77: no
  --fake   what needs no GPU: the end-to-end tests on the CPU and on the fake GPU
  --limit SECONDS   nothing goes on for longer: what found no time is listed as not run
  NAME ...          only parts whose names have one of these in them"""
import argparse
import contextlib
import ctypes
import glob
import importlib
import math
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
HANG_S = 240  # of kernels and golden models, which take a minute at most: what takes longer hangs, which is a failure, however little time there is
AT_ONCE = min(6, os.cpu_count())
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


def run(command, limit_s=math.inf, **environment):
    """(seconds, exit status, output). What the command has started ends with it: a hung daemon would keep the GPU from the parts behind."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:  # a pipe would be held by what is left behind
        try:
            process = subprocess.Popen(list(map(str, command)), cwd=ROOT, env={**os.environ, **environment}, stdout=output,
                                       stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            return 0, 127, f"{error}\n"
        LIVE.add(process.pid)
        limit_s = min(LIMIT_S, limit_s)
        status, late = 124, f"\nno end after {limit_s:.0f} s\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            status, late = process.wait(limit_s), ""
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

    def __init__(self, limit_s=math.inf, names=()):
        self.parts, self.rows, self.skipped = ThreadPoolExecutor(AT_ONCE), [], []
        self.began, self.limit_s, self.names = time.monotonic(), limit_s, names

    def now_s(self):
        return time.monotonic() - self.began

    def add(self, name, command, passed, failed, show=False, most_s=LIMIT_S, again=(), **environment):
        """again: before the command, if it has failed but come to an end: says why."""
        if self.names and not any(part in name for part in self.names):
            return

        def part():
            at_s = self.now_s()
            left_s = self.limit_s - at_s
            if left_s < 1:
                self.skipped.append(f"{name}: no time")
                return None
            seconds, status, output = run(command, min(most_s, left_s), **environment)
            if status == 124 and left_s < most_s:
                self.skipped.append(f"{name}: had {seconds:.0f} s and did not end")
                print(f"{name}: cut off\n{output}", flush=True)
                return None
            good, bad = count(output, status, passed, failed)
            print(f"{name}: {good} passed, {bad} failed, from {at_s:.0f} to {self.now_s():.0f} s" + (bad or show) * f"\n{output}", flush=True)
            if bad and again and status != 124:
                print(f"{name} again, by {' '.join(map(str, again))}:\n{run([*again, *command], self.limit_s - self.now_s(), **environment)[2]}", flush=True)
            return name, seconds, good, bad

        self.rows.append(self.parts.submit(part))

    def program(self, name, command, **more):
        self.add(name, command, r"PASSED  \] (\d+) test", r"FAILED  \] (\d+) test", TL_TEST_GOLDEN=str(ROOT / "tests/golden"),
                 TL_TEST_PLUGIN_DIR=str(BUILD / "lib"), **more)

    def pytest(self, name, files, **environment):
        if sys.version_info < (3, 11) and (ROOT / "python").exists():
            self.skipped.append(f"{name}: the packages of this bundle need Python 3.11, this is {sys.version.split()[0]}")
            return
        for file in files:
            self.add(f"{name}: {file}", [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/e2e/{file}"],
                     r"(\d+) passed", r"(\d+) (?:failed|error)", TOKENLANE_BIN=str(BINARY), **environment)

    def end(self):
        rows = [row for row in (row.result() for row in self.rows) if row]
        print(f"\n{'':44} {'seconds':>8} {'passed':>7} {'failed':>7}")
        for name, seconds, passed, failed in rows:
            print(f"{name:44} {seconds:8.1f} {passed:7} {failed:7}")
        for line in self.skipped + [f"{name}: all its tests skip" for name, _, passed, failed in rows if not passed + failed]:
            print(f"not run: {line}")
        failed = sum(row[3] for row in rows)
        if failed:
            print_faults()
        print(f"{sum(row[2] for row in rows)} passed, {failed} failed")
        if not self.rows:
            print(f"no part is called {' or '.join(self.names)}")
        return int(failed > 0 or not self.rows)


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


def opened_libraries():
    """Those that the plugin opens by name."""
    plugin = (BUILD / "lib/tokenlane-cuda.so").read_bytes()
    return sorted({name.decode() for name in re.findall(rb"lib(?:cublasLt|nccl|cudnn_graph)\.so\.\d+", plugin)})


def version_of(library):
    """Of one of those, as it counts them."""
    for name in ("cublasLtGetVersion", "cudnnGetVersion"):
        if hasattr(library, name):
            return getattr(library, name)()
    number = ctypes.c_int()
    library.ncclGetVersion(ctypes.byref(number))
    return number.value


def find_library(name):
    """Whether the plugin will find it, in its own places, or where Python's packages have it: then by LD_LIBRARY_PATH, from now on."""
    usual = ["", "/usr/local/cuda/lib64/", "/usr/local/cuda/lib/"]
    packages = [f"{file.parent}/" for folder in sys.path for file in pathlib.Path(folder).glob(f"nvidia/*/lib/{name}")]
    for folder in usual + packages:
        try:
            library = ctypes.CDLL(folder + name)
        except OSError:
            continue
        path = re.search(rf"/.*{re.escape(name)}.*", pathlib.Path("/proc/self/maps").read_text())
        print(f"{path[0] if path else name}: version {version_of(library)}")
        if folder not in usual:
            os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, [folder, os.environ.get("LD_LIBRARY_PATH")]))
        return True
    return False


def said(*command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    return done.stdout.strip()


def print_machine():
    print(said("nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total,memory.used,compute_mode", "--format=csv"))
    print(f"{said(BINARY, '--version')}, Python {sys.version.split()[0]}, {os.cpu_count()} processors", flush=True)


def print_faults():
    """What the driver has noted last: Xids, among them those of traps that were asked for."""
    for line in [line for line in said("dmesg").splitlines() if "NVRM" in line][-20:]:
        print(line)


def sanitizer(tool):
    """What stands before a command; []: it is not here."""
    found = shutil.which("compute-sanitizer") or next(iter(glob.glob("/usr/local/cuda*/bin/compute-sanitizer")), None)
    return [found, "--tool", tool, "--error-exitcode", "9"] if found else []


def add_memchecks(table, ops):
    for name in ops:
        if name != "test_op_model":  # the same kernels once more, and hours of them
            table.program(f"memcheck {name}", [*sanitizer("memcheck"), OPS, name])
    for name in ops:
        if name == "test_op_sample":
            table.skipped.append("racecheck test_op_sample: it did not end in the minute that it was given on an H200")
        elif name != "test_op_model":
            table.program(f"racecheck {name}", [*sanitizer("racecheck"), OPS, name])


def on_gpu(table):
    """What tells most of a second first: there may be a limit. Hangs come late: they take the GPU's time from others."""
    print_machine()
    _, status, names = run([OPS])
    ops, memcheck = names.split() if status == 2 else [], sanitizer("memcheck")  # who is asked for no test names them all
    missing = [name for name in opened_libraries() if not find_library(name)]
    table.skipped += [f"what wants {name}: it is not here" for name in missing]
    for name in ops:
        table.program(name, [OPS, name], most_s=HANG_S, again=memcheck)
    if not ops:
        table.program("kernels", [OPS])  # not here, or not for this machine: that is a failure
    for name in ("model", "drafts", "stored", "encoders", "adapters", "kv"):
        table.program(f"golden models: {name}", [BUILD / f"gpu/test_cuda_{name}"], most_s=HANG_S)
    table.pytest("vectors", [VECTORS], TOKENLANE_GPU_PLUGIN=str(BUILD / "gpu/fault"))
    table.pytest("end to end", end_to_end(table), TOKENLANE_DEVICES="cuda")
    if not any("cudnn" in name for name in missing):
        program = BUILD / "gpu/test_cuda_sdpa"
        table.program("attention by cuDNN", [program], show=True)
        for name in ("test_whole", "test_several") if memcheck else ():  # what it writes elsewhere, no comparison of results shows
            table.program(f"memcheck attention by cuDNN, {name}", [*memcheck, program, name])
    table.pytest("traps and hangs", [FAULTS], TOKENLANE_GPU_PLUGIN=str(BUILD / "gpu/fault"))
    if memcheck:
        add_memchecks(table, ops)
    else:
        table.skipped.append("compute-sanitizer: it is not here")


def on_fake(table):
    table.pytest("end to end, CPU", end_to_end(table))
    table.pytest("end to end, fake GPU", [FAULTS, VECTORS])


def main():
    asked = argparse.ArgumentParser(usage=__doc__)
    asked.add_argument("--look", action="store_true")
    asked.add_argument("--fake", action="store_true")
    asked.add_argument("--limit", type=float, default=math.inf)
    asked.add_argument("names", nargs="*")
    asked = asked.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_all)
    table = Table(asked.limit, asked.names)
    if asked.fake:
        on_fake(table)
        sys.exit(table.end())
    why = why_no_gpu()
    if why:
        print(f"check-gpu: no GPU: {why}")
        sys.exit(NO_GPU)
    if not asked.look:
        on_gpu(table)
        sys.exit(table.end())


if __name__ == "__main__":
    main()
