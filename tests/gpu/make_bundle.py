# SPDX-License-Identifier: MIT
"""`make gpu-bundle`: what a run on a machine with a GPU needs, in one folder, and as gpu-bundle.tar.xz beside it, below LIMIT_MIB. That machine has to have
Linux on x86-64 with a glibc no older than this one's, python3, the driver, and CUDA's libcublasLt (libnccl for groups); nothing
of this project's needs, no compiler, no registry. The folder is a small copy of the tree, so the scripts find all where it always is."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ["B"])
BUNDLE = BUILD / "gpu-bundle"
LIMIT_MIB = 64  # what may be sent to such a machine has limits; CUDA_ARCHS of just its GPU saves a quarter
# of the machine's own libc, which all processes must share with its drivers
LIBC = re.compile(r"(ld-linux-x86-64|libc|libm|libdl|librt|libpthread|libresolv|libutil|libanl|libnss_\w+)\.so")
PROGRAMS = {"gpu/tokenlane": "bin/tokenlane", "lib/tokenlane-cuda.so": "lib/tokenlane-cuda.so", "gpu/ops": "gpu/ops",
            "gpu/test_cuda_model": "gpu/test_cuda_model", "gpu/test_cuda_drafts": "gpu/test_cuda_drafts", "gpu/test_cuda_sdpa": "gpu/test_cuda_sdpa",
            "gpu/test_cuda_encoders": "gpu/test_cuda_encoders", "gpu/test_cuda_stored": "gpu/test_cuda_stored",
            "gpu/test_cuda_adapters": "gpu/test_cuda_adapters", "gpu/test_cuda_kv": "gpu/test_cuda_kv",
            "gpu/fault/tokenlane-cuda.so": "gpu/fault/tokenlane-cuda.so",
            "fake_gpu/tokenlane-cuda.so": "fake_gpu/tokenlane-cuda.so", "gpu/bench_gpu": "gpu/bench_gpu"}
FILES = ["tests/gpu/check_gpu.py", "tests/golden/llama", "tests/golden/arch", "tests/golden/encoders", "tests/golden/adapters", "tests/golden/gguf/encoder_q8_0.gguf",
         "tests/golden/gguf/mixed.gguf", "tests/golden/experts/qwen3_gptq", "tests/golden/experts/mixtral_gptq",
         *(f"tests/golden/gguf/llama_f16_sharded-0000{i}-of-00002.gguf" for i in (1, 2)), "config/demo/model", "bench/bench_gpu.py",
         "bench/bench_gpu_peers.py", "bench/make_synthetic.py"]
PACKAGES = ["pytest", "_pytest", "py.py", "pluggy", "iniconfig", "packaging", "httpx", "httpcore", "h11", "anyio", "certifi", "idna",
            "sniffio", "typing_extensions.py", "prometheus_client", "pygments"]
LEXERS = {"__init__.py", "_mapping.py", "python.py", "diff.py", "special.py"}  # of pygments, that pytest asks for

RUN = """#!/bin/sh
# The whole GPU suite; --fake: what needs no GPU; --bench: measure. Ends with a table and 'N passed, N failed'.
here=$(cd "${0%/*}" && pwd)
command -v python3 >/dev/null || { echo "run-gpu-suite: python3 is needed"; exit 1; }
export B="$here/build" PYTHONPATH="$here/python" PYTHONDONTWRITEBYTECODE=1
cd "$here" || exit 1
case "$1" in
  --bench) shift; exec python3 bench/bench_gpu.py "$@" ;;
  *) exec python3 tests/gpu/check_gpu.py "$@" ;;
esac
"""


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    else:
        shutil.copy2(source, target)


def copy_libraries(program):
    """What it is linked with, but for libc."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for name, path in re.findall(r"(\S+) => (/\S+)", listed):
        if not LIBC.match(name) and not (BUNDLE / "build/lib/deps" / name).exists():
            copy(pathlib.Path(path).resolve(), BUNDLE / "build/lib/deps" / name)
    missing = re.findall(r"(\S+) => not found", listed)
    if missing:
        sys.exit(f"gpu-bundle: {program} needs {', '.join(missing)}")


def copy_packages():
    site = pathlib.Path(sysconfig.get_paths()["purelib"])
    for name in PACKAGES:
        copy(site / name, BUNDLE / "python" / name)
    for lexer in (BUNDLE / "python/pygments/lexers").iterdir():
        if lexer.name not in LEXERS:
            lexer.unlink()
    for about in site.glob("*.dist-info"):  # pytest asks for its own version
        if about.name.split("-")[0] in ("pytest", "pluggy", "iniconfig"):
            copy(about, BUNDLE / "python" / about.name)


def main():
    shutil.rmtree(BUNDLE, ignore_errors=True)
    for source, target in PROGRAMS.items():
        if not (BUILD / source).exists():
            print(f"gpu-bundle: without {target}: it is not built")
            continue
        copy(BUILD / source, BUNDLE / "build" / target)
        subprocess.run(["strip", BUNDLE / "build" / target], check=True)
        copy_libraries(BUILD / source)
    for name in FILES:
        copy(ROOT / name, BUNDLE / name)
    for source in sorted((ROOT / "tests/e2e").glob("*.*")):
        copy(source, BUNDLE / "tests/e2e" / source.name)
    copy_packages()
    script = BUNDLE / "run-gpu-suite"
    script.write_text(RUN)
    script.chmod(0o755)
    size = sum(f.stat().st_size for f in BUNDLE.rglob("*") if f.is_file()) / (1 << 20)
    print(f"gpu-bundle: {BUNDLE}, {size:.1f} MiB")
    packed = BUNDLE.parent / "gpu-bundle.tar.xz"
    with tarfile.open(packed, "w:xz") as file:
        file.add(BUNDLE, BUNDLE.name)
    size = packed.stat().st_size / (1 << 20)
    print(f"gpu-bundle: {packed}, {size:.1f} MiB")
    if size > LIMIT_MIB:
        sys.exit(f"gpu-bundle: more than {LIMIT_MIB} MiB")


if __name__ == "__main__":
    main()
