# SPDX-License-Identifier: MIT
"""What the daemon says and does about GPUs on a machine that has none, and of its plugin."""
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

from daemon import BINARY, BUILT, MODEL, ROOT

PLUGIN = pathlib.Path(BINARY).resolve().parents[1] / "lib/tokenlane-cuda.so"
HAS_GPU = os.path.exists("/dev/nvidiactl")
needs_plugin = pytest.mark.skipif("plugin" not in BUILT and not PLUGIN.exists(), reason="built without nvcc")
pytestmark = pytest.mark.plugin
without_gpu = pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")


def check(*options):
    """(valid, what it says) of `tokenlane check-config`."""
    done = subprocess.run([BINARY, "check-config", "--model.path", MODEL, *options], capture_output=True, text=True)
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def needed(path):
    """The libraries that a file asks the linker for."""
    lines = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split("[")[1].rstrip("]") for line in lines if "(NEEDED)" in line]


def of_cuda(libraries):
    return [name for name in libraries if re.match(r"lib(cuda|cublas|cudnn|nccl|nvidia|nvrtc|nvJit)", name)]


def compile_plugin(folder, text):
    source = folder / "other.c"
    source.write_text(text)
    subprocess.run(["cc", "-std=c17", f"-I{ROOT}/include", "-shared", "-fPIC", "-o", folder / "tokenlane-cuda.so", source],
                   check=True)


def test_the_daemon_needs_no_cuda_library():
    assert not of_cuda(needed(BINARY))
    assert "libc.so.6" in needed(BINARY)


@needs_plugin
def test_the_plugin_needs_no_library_of_the_toolkit():
    assert not of_cuda(needed(PLUGIN))


@needs_plugin
def test_one_symbol_leaves_the_plugin():
    out = subprocess.run(["nm", "-D", "--defined-only", PLUGIN], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in out.splitlines()] == ["tl_device_plugin"]


@needs_plugin
@without_gpu
@pytest.mark.parametrize("devices", ["cuda", "cuda,cpu:0"])
def test_no_driver_is_one_clear_line(devices):
    valid, text = check("--devices", devices)
    assert not valid and text.startswith("tokenlane: devices: no NVIDIA driver: ") and "\n" not in text


@needs_plugin
@without_gpu
def test_a_named_gpu_is_refused_at_start(start):
    assert check("--devices", "cuda:0") == (True, "the configuration is valid")  # on a machine that has it
    d = start({"devices": "cuda:0"}, wait=False)
    assert d.process.wait(60) == 1
    last = d.stderr().strip().splitlines()[-1]
    assert last.startswith("tokenlane: devices: no NVIDIA driver: ")


@without_gpu
def test_auto_serves_on_the_cpu(start):
    d = start({"devices": "auto"})
    assert "no GPU is used" in d.stderr()
    assert d.complete("Once upon", max_tokens=4)["choices"][0]["finish_reason"] == "length"
    assert check("--devices", "auto,cpu:0") == (False, "tokenlane: devices: expected different devices, got cpu:0 twice")


def test_without_a_plugin(tmp_path):
    valid, text = check("--devices", "cuda:0", "--device.plugin_dir", str(tmp_path))
    assert not valid and f"{tmp_path}/tokenlane-cuda.so is not there" in text and "device.plugin_dir" in text
    assert check("--devices", "auto", "--device.plugin_dir", str(tmp_path))[0]


@pytest.mark.skipif(not shutil.which("cc"), reason="no compiler")
@pytest.mark.parametrize("abi, sizes", [("TL_DEVICE_ABI + 1", "TL_DEVICE_SIZES"), ("TL_DEVICE_ABI", "TL_DEVICE_SIZES + 8")])
def test_a_plugin_of_another_build(tmp_path, abi, sizes):
    compile_plugin(tmp_path, f"""
        #include "tokenlane/device.h"
        const struct tl_device_plugin *tl_device_plugin(void);
        const struct tl_device_plugin *tl_device_plugin(void) {{
          static const struct tl_device_plugin plugin = {{{abi}, {sizes}, 0}};
          return &plugin;
        }}""")
    valid, text = check("--devices", "cuda:0", "--device.plugin_dir", str(tmp_path))
    assert not valid and "is of another build than this daemon" in text


def test_a_file_that_is_no_plugin(tmp_path):
    (tmp_path / "tokenlane-cuda.so").write_text("not a library")
    valid, text = check("--devices", "cuda:0", "--device.plugin_dir", str(tmp_path))
    assert not valid and "the CUDA backend cannot be opened: " in text
    if shutil.which("cc"):
        compile_plugin(tmp_path, "int other;")
        valid, text = check("--devices", "cuda:0", "--device.plugin_dir", str(tmp_path))
        assert not valid and "tl_device_plugin" in text


@pytest.mark.parametrize("devices", ["cuda:", "cuda:x", "cuda:-1", "cuda0", "cuda:0:1", "autos", "cuda:99999999999"])
def test_devices_that_are_none(devices):
    assert check("--devices", devices) == (False, f"tokenlane: devices: expected devices such as cpu:0, got '{devices}'")


@needs_plugin
@without_gpu
def test_the_suite_says_in_one_line_that_there_is_no_gpu():
    done = subprocess.run([sys.executable, ROOT / "tests/gpu/check_gpu.py"], capture_output=True, text=True,
                          env={**os.environ, "B": str(pathlib.Path(BINARY).resolve().parents[1])})
    assert done.returncode == 77 and done.stderr == ""
    assert re.fullmatch(r"check-gpu: no GPU: devices: no NVIDIA driver: [^\n]+\n", done.stdout)


def script(name, monkeypatch):
    monkeypatch.setenv("B", str(pathlib.Path(BINARY).resolve().parents[1]))
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tests/gpu/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def suite(monkeypatch):
    return script("check_gpu", monkeypatch)


def test_all_tests_that_are_built_for_a_gpu_are_bundled_and_run(suite, monkeypatch):
    built = re.search(r"^GPU_PROGRAMS := (.*)$", (ROOT / "tests/gpu/gpu.mk").read_text(), re.M)[1]
    programs = set(re.findall(r"\$\(B\)/(gpu/test_\w+)", built))
    assert len(programs) >= 7 and programs <= set(script("make_bundle", monkeypatch).PROGRAMS)
    run = set()
    monkeypatch.setattr(suite, "print_machine", lambda: None)
    monkeypatch.setattr(suite, "opened_libraries", list)
    monkeypatch.setattr(suite.Table, "add", lambda self, name, command, *_, **__: run.update(command))
    suite.on_gpu(suite.Table())
    assert {suite.BUILD / program for program in programs} <= run


@pytest.mark.parametrize("ends", [False, True])
def test_what_a_part_of_the_suite_leaves_behind_ends_with_it(suite, monkeypatch, tmp_path, ends):
    monkeypatch.setattr(suite, "LIMIT_S", 60 if ends else 1)
    script = f"sleep 1000 & echo $! > {tmp_path}/pid; echo begun; {'' if ends else 'sleep 1000'}"
    _, status, output = suite.run(["sh", "-c", script])
    assert status == (0 if ends else 124)
    assert output == ("begun\n" if ends else "begun\n\nno end after 1 s\n")
    state = pathlib.Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    for _ in range(100):  # killed is not yet gone
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("it still runs")


def test_a_part_whose_tests_all_skip_is_told(suite, capsys):
    table = suite.Table()
    table.add("nothing", ["sh", "-c", "echo 3 skipped"], r"(\d+) passed", r"(\d+) failed")
    table.add("something", ["sh", "-c", "echo 2 passed"], r"(\d+) passed", r"(\d+) failed")
    assert table.end() == 0
    out = capsys.readouterr().out
    assert "not run: nothing: all its tests skip\n2 passed, 0 failed\n" in out


def test_a_part_that_hangs_is_a_failure(suite, monkeypatch, capsys):
    """Where seconds are enough, however little time there is; the log says what the driver knows."""
    noted = "[ 7.1] eth0: up\n[ 9.2] NVRM: Xid (PCI:0000:3b:00): 13, Graphics SM Warp Exception\n"
    monkeypatch.setattr(suite, "said", lambda *command: noted if command == ("dmesg",) else "")
    table = suite.Table(60)
    table.add("hung", ["sh", "-c", "echo 1 passed; sleep 1000"], r"(\d+) passed", r"(\d+) failed", most_s=2)
    assert table.end() == 1
    out = capsys.readouterr().out
    assert re.search(r"hung: 1 passed, 1 failed, from \d+ to \d+ s\n1 passed\n\nno end after 2 s\n", out)
    assert out.endswith(noted.splitlines()[1] + "\n1 passed, 1 failed\n") and "eth0" not in out


def test_a_part_that_fails_is_asked_why(suite, capsys):
    """Once more under what knows which kernel it was; not if it came to no end."""
    table = suite.Table()
    tool = ["sh", "-c", 'echo "an invalid read in: $*"']
    for name, command in {"bad": ["sh", "-c", "exit 3"], "good": ["echo", "1 passed"], "hung": ["sleep", "1000"]}.items():
        table.add(name, command, r"(\d+) passed", r"(\d+) failed", most_s=1 if name == "hung" else 60, again=tool)
    assert table.end() == 1
    out = capsys.readouterr().out
    # other parts may end in between
    assert re.search(r"bad: 0 passed, 1 failed, .*\nbad again, by [^\n]+:\nan invalid read in: -c exit 3\n", out, re.DOTALL)
    assert out.count("again") == 1 and out.endswith("1 passed, 2 failed\n")


def test_the_suite_within_a_limit_and_parts_by_name(suite, capsys):
    table = suite.Table(2, ["long", "late"])
    table.parts = suite.ThreadPoolExecutor(1)
    for name, command in {"other": "echo 9 passed", "long": "echo 1 passed; sleep 1000", "late": "echo 9 passed"}.items():
        table.add(name, ["sh", "-c", command], r"(\d+) passed", r"(\d+) failed")
    assert table.end() == 0
    out = capsys.readouterr().out
    assert "not run: long: had 2 s and did not end\nnot run: late: no time\n0 passed, 0 failed\n" in out and "other" not in out
    table = suite.Table(names=["nobody"])
    table.add("other", ["sh", "-c", "echo 9 passed"], r"(\d+) passed", r"(\d+) failed")
    assert table.end() == 1 and "no part is called nobody" in capsys.readouterr().out
