# SPDX-License-Identifier: MIT
"""Ten times more than the server can do: a short run of bench/overload.py (`make overload`), which measures; here only what
holds on any machine, however busy."""
import os
import pathlib
import sys

import pytest

from daemon import BINARY, ROOT, SAN

os.environ.setdefault("B", str(pathlib.Path(BINARY).parents[1]))
sys.path.append(str(ROOT / "bench"))
import overload  # noqa: E402


@pytest.mark.skipif(bool(SAN), reason="a sanitizer's daemon has another capacity with each load")
def test_ten_times_too_much():
    r = overload.measure(6)
    print(r)
    assert r["failed"] == {}  # none hung, all else were refused
    assert r["refused"] > 5 * r["served"]
    assert r["of_peak"] > 0.8
    assert r["refused_ms"]["p50"] < r["served_ms"]["p50"] / 4  # the tail is what else runs on the machine
    assert r["grown_mib"] < overload.GROWN_MIB
    assert r["to_normal_s"] < overload.PROBE_S
