# SPDX-License-Identifier: MIT
"""`tokenlane models --supported`: the README's table is the code's."""

import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("TOKENLANE_BIN", f"{ROOT}/build/plain/bin/tokenlane")


def run(*arguments):
    return subprocess.run([BINARY, "models", *arguments], capture_output=True, text=True, timeout=60)


def test_table_is_that_of_the_readme():
    done = run("--supported")
    assert done.returncode == 0
    assert "LlamaForCausalLM" in done.stdout
    assert done.stdout in open(f"{ROOT}/README.md").read()


def test_anything_else_is_refused():
    for arguments in ((), ("--all",), ("--supported", "more")):
        done = run(*arguments)
        assert done.returncode == 2 and "expected --supported" in done.stderr
