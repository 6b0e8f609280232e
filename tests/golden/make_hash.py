# SPDX-License-Identifier: MIT
"""Makes hash_siphash13.txt and hash_philox.txt.

    python3 tests/golden/make_hash.py

SipHash-1-3 is CPython's own hash of bytes (3.11 and later; sys.hash_info says so),
whose key PYTHONHASHSEED sets. Philox4x32-10 is written here from Salmon et al.
2011 and checked against the known answers of Random123 1.14 (kat_vectors).
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SEEDS = (0, 1, 42, 4294967295)


def key_of_seed(seed):
    """The key that CPython makes of PYTHONHASHSEED (lcg_urandom, bootstrap_hash.c)."""
    if seed == 0:
        return 0, 0
    x, key = seed, bytearray()
    for _ in range(16):
        x = (x * 214013 + 2531011) & 0xffffffff
        key.append(x >> 16 & 0xff)
    return int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")


def print_hashes():
    assert sys.hash_info.algorithm == "siphash13" and sys.hash_info.hash_bits == 64
    for n in range(1, 64):
        print(n, hash(bytes(range(n))) & (2**64 - 1))


def make_siphash():
    with open(f"{HERE}/hash_siphash13.txt", "w") as out:
        out.write("# key0 key1 length hash of the bytes 0, 1, ... length-1; made by make_hash.py\n")
        # the reference implementation's own answer for no bytes at all (CPython answers 0)
        out.write("0 0 0 15130871412783076140\n")
        for seed in SEEDS:
            key0, key1 = key_of_seed(seed)
            text = subprocess.run([sys.executable, __file__, "hashes"], env={"PYTHONHASHSEED": str(seed)},
                                  capture_output=True, text=True, check=True).stdout
            for line in text.splitlines():
                out.write(f"{key0} {key1} {line}\n")


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xffffffff, a >> 32 ^ c[3] ^ k[1], a & 0xffffffff]
        k = [(k[0] + 0x9E3779B9) & 0xffffffff, (k[1] + 0xBB67AE85) & 0xffffffff]
    return c


def make_philox():
    ones = 0xffffffff
    assert philox([0] * 4, [0] * 2) == [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]
    assert philox([ones] * 4, [ones] * 2) == [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
    assert philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]) == \
        [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
    with open(f"{HERE}/hash_philox.txt", "w") as out:
        out.write("# seed position first word of the block; made by make_hash.py\n")
        values = [0, 1, 2, 3, 255, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 0x243f6a8885a308d3]
        for seed in values:
            for position in values:
                word = philox([position & ones, position >> 32, 0, 0], [seed & ones, seed >> 32])[0]
                out.write(f"{seed} {position} {word}\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["hashes"]:
        print_hashes()
    else:
        make_siphash()
        make_philox()
