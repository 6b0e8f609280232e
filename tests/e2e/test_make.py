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
