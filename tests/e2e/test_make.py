# SPDX-License-Identifier: MIT
"""What the Makefile must not take for fine. The compiler for GPUs is a script that reads its -o and -MF."""
import os
import subprocess

import pytest

from daemon import ROOT

NVCC = """#!/bin/sh
while [ $# -gt 0 ]; do
  [ "$1" = -o ] && object=$2
  [ "$1" = -MF ] && depends=$2
  shift
done
echo code >"$object"
: >"$depends"
echo "ptxas info    : Used 8 registers"
echo "$SAYS"
"""


@pytest.fixture
def kernel(tmp_path):
    """kernel(...) -> exit status and what make said when it was to compile one."""
    nvcc, made = tmp_path / "nvcc", tmp_path / "build/cuda/cuda_norm.o"
    nvcc.write_text(NVCC)
    nvcc.chmod(0o755)

    def make(*flags, **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "NVCC", "CCACHE"))}
        done = subprocess.run(["make", "-C", ROOT, "SAN=", "V=1", f"NVCC={nvcc}", f"B={tmp_path}/build", *flags, made],
                              env={**clean, "SAYS": "", **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout
    return make


def test_a_kernel_that_spills_fails_each_time(kernel):
    for _ in range(2):
        status, said = kernel("CCACHE=", SAYS="ptxas warning : Registers are spilled")
        assert status == 2 and "Registers are spilled" in said
    assert kernel("CCACHE=")[0] == 0
    assert "up to date" in kernel("CCACHE=", SAYS="nothing")[1]


def test_flags_that_ccache_does_not_see_are_compiled(kernel):
    assert "CCACHE_NOHASHDIR=1 cached " in kernel("-n", "CCACHE=cached")[1]
    for name in ("NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS"):
        assert "cached" not in kernel("-n", "CCACHE=cached", **{name: "-G"})[1]


@pytest.fixture
def compiled(tmp_path):
    """compiled(...) -> what make had to compile for an object and an emulated kernel, by the Makefile or another."""
    def make(*flags, makefile="Makefile", san=""):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "CFLAGS", "CPPFLAGS", "LDFLAGS"))}
        built = [tmp_path / "build" / name for name in ("obj/base/clock.o", "fibers/cuda_quantize.o")]
        done = subprocess.run(["make", "-C", ROOT, "-f", makefile, f"SAN={san}", "CUDA=0", "V=", f"B={tmp_path}/build", *flags, *built],
                              env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        return {line.split()[-1] for line in done.stdout.splitlines() if line.startswith("  ")}
    return make


def test_other_flags_compile_again(compiled, tmp_path):
    """Given ones, and those that stand in the Makefile; the same ones compile nothing."""
    both = {"src/base/clock.c", "src/device/cuda/ops/cuda_quantize.cu"}
    assert compiled() >= both
    assert compiled() == set()
    other = tmp_path / "Makefile"
    other.write_text((ROOT / "Makefile").read_text() + "\n# a comment\n")
    assert compiled(makefile=other) == set()
    assert compiled("CPPFLAGS=-Iinclude -Isrc -D_GNU_SOURCE -DTL_VERSION='\"1\"'") >= both
    assert compiled() >= both
    other.write_text(other.read_text().replace("WARN := -Wall", "WARN := -Wfatal-errors -Wall"))
    assert compiled(makefile=other) >= both
    assert compiled(makefile=other) == set()
    other.write_text(other.read_text().replace("_avx2.o: CFLAGS += ", "_avx2.o: CFLAGS += -mbmi2 "))
    assert compiled(makefile=other) >= both
