#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws build/scaling.json as SVG: tokens per second over simulated GPUs, both axes logarithmic, beside the ideal line.

    python3 bench/plot.py build/scaling.json bench/scaling.svg
"""

import json
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 440, 80, 190, 40, 60
COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8d6a9f", "#c77d1e", "#444444")


def series(lines):
    """{label: [(gpus, tokens/s)]}"""
    found = {}
    for r in lines:
        label = f"{'streamed' if r['stream'] else 'whole'}, {r['loops']} loop{'s' if r['loops'] > 1 else ''}"
        found.setdefault(label, []).append((r["gpus"], r["tokens_per_s"]))
    return {label: sorted(points) for label, points in found.items()}


class Scale:
    """Logarithmic: value to pixel."""

    def __init__(self, low, high, from_pixel, to_pixel):
        self.low, self.high, self.from_pixel, self.to_pixel = math.log(low), math.log(high), from_pixel, to_pixel

    def __call__(self, value):
        return self.from_pixel + (math.log(value) - self.low) / (self.high - self.low) * (self.to_pixel - self.from_pixel)


def text(x, y, words, anchor="middle", size=12, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {more}>{words}</text>'


def line(points, colour, dash=""):
    at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'


def axes(gpus, ticks, x, y):
    for n in gpus:
        yield f'<line x1="{x(n):.1f}" y1="{TOP}" x2="{x(n):.1f}" y2="{HEIGHT - BOTTOM}" stroke="#e0e0e0"/>'
        yield text(x(n), HEIGHT - BOTTOM + 18, n)
    for value in ticks:
        yield f'<line x1="{LEFT}" y1="{y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{y(value):.1f}" stroke="#e0e0e0"/>'
        yield text(LEFT - 8, y(value) + 4, f"{value:,.0f}".replace(",", " "), "end")
    yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, "simulated GPUs")
    yield text(18, (TOP + HEIGHT - BOTTOM) / 2, "tokens/s", more=f'transform="rotate(-90 18 {(TOP + HEIGHT - BOTTOM) / 2:.0f})"')


def draw(data):
    found = series(data["lines"])
    gpus = sorted({n for points in found.values() for n, _ in points})
    one = max(rate for points in found.values() for n, rate in points if n == gpus[0]) / gpus[0]
    top = one * gpus[-1]
    x = Scale(gpus[0], max(gpus[-1], gpus[0] + 1), LEFT, WIDTH - RIGHT)
    y = Scale(one * gpus[0] * 0.8, top * 1.25, HEIGHT - BOTTOM, TOP)
    ticks = [t * 10**k for k in range(1, 7) for t in (1, 2, 5) if one * gpus[0] * 0.8 <= t * 10**k <= top * 1.25]
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    yield text(LEFT, 22, f"{data['cpu']}, {data['processors']} processors for daemon and client", "start", 13)
    yield from axes(gpus, ticks, x, y)
    yield line([(x(n), y(one * n)) for n in gpus], "#999999", "6 4")
    yield text(WIDTH - RIGHT + 12, TOP + 14, "- - N x one GPU", "start", 12, 'fill="#777777"')
    for i, (label, points) in enumerate(found.items()):
        colour = COLOURS[i % len(COLOURS)]
        yield line([(x(n), y(rate)) for n, rate in points], colour)
        yield from (f'<circle cx="{x(n):.1f}" cy="{y(rate):.1f}" r="3" fill="{colour}"/>' for n, rate in points)
        yield text(WIDTH - RIGHT + 12, TOP + 36 + 20 * i, label, "start", 12, f'fill="{colour}"')
    yield "</svg>"


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: plot.py SCALING_JSON SVG")
    with open(sys.argv[1], encoding="utf-8") as file:
        data = json.load(file)
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write("\n".join(draw(data)) + "\n")


if __name__ == "__main__":
    main()
