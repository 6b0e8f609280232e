# SPDX-License-Identifier: MIT
"""`make check-gpu-bundle`: the bundle's parts that need no GPU, in a root that has nothing but a shell, python3, what these two are
linked with, and the bundle. Needs root, for mounts of its own."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

BUNDLE = pathlib.Path(os.environ["B"]) / "gpu-bundle"
PYTHON = pathlib.Path("/usr/bin/python3").resolve()
STANDARD_LIBRARY = pathlib.Path(f"/usr/lib/{PYTHON.name}")
ALLOWED = ["/bin/sh"]

INSIDE = """set -e
mount -t tmpfs tmpfs "$1"; cd "$1"
mkdir proc dev tmp dev/shm bundle
mount -t proc proc proc
for d in null zero urandom random; do touch dev/$d; mount --bind /dev/$d dev/$d; done
mount -t tmpfs tmpfs tmp; mount -t tmpfs tmpfs dev/shm
mount --bind "$2" bundle; mount -o remount,bind,ro bundle
while read -r path; do
  mkdir -p ".${path%/*}"
  if [ -d "$path" ]; then mkdir -p ".$path"; else touch ".$path"; fi
  mount --bind "$path" ".$path"
done
ip link set lo up 2>/dev/null || true
mkdir -p usr/bin; ln -s "$3" usr/bin/python3
exec env -i PATH=/usr/bin:/bin HOME=/tmp "$(command -v chroot || echo /usr/sbin/chroot)" . /bundle/run-gpu-suite $4
"""


def linked_with(program):
    out = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return set(re.findall(r"(?:=> )?(/\S+) \(0x", out))


def main():
    programs = [PYTHON, *ALLOWED, *STANDARD_LIBRARY.glob("lib-dynload/*.so")]
    paths = {str(PYTHON), *ALLOWED, str(STANDARD_LIBRARY)}.union(*(linked_with(p) for p in programs))
    # the machine's libc, all of it: what the bundle leaves out
    paths |= {str(p) for folder in {pathlib.Path(p).parent for p in paths if "/libc.so" in p}
              for name in ("libdl", "librt", "libpthread", "libresolv", "libnss_files", "libnss_dns", "libm") for p in folder.glob(f"{name}.so.[0-9]")}
    with tempfile.TemporaryDirectory() as root:
        done = subprocess.run(["unshare", "--mount", "--fork", "--pid", "--kill-child", "sh", "-c", INSIDE, "sh", root, BUNDLE, PYTHON,
                               " ".join(sys.argv[1:])], input="\n".join(sorted(paths)) + "\n", text=True)
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
