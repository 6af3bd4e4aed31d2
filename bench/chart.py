"""A small chart as SVG: panels over one axis, each point with its value; readable on light and on dark pages."""

import dataclasses
import html
import math

WIDTH, LEFT, RIGHT, TOP, BOTTOM, PANEL, GAP = 720, 70, 40, 50, 90, 190, 40
STYLE = """<style>
  .page { fill: #ffffff } text { fill: #24292f; font: 12px sans-serif } .title { font-size: 15px } .soft { fill: #57606a }
  .grid { stroke: #d8dee4 } .line { fill: none; stroke: #1f5fbf; stroke-width: 2 } .mark { fill: #1f5fbf } .range { stroke: #1f5fbf; stroke-width: 5; opacity: .35 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } text { fill: #e6edf3 } .soft { fill: #9da7b3 } .grid { stroke: #30363d }
    .line, .range { stroke: #79b0ff } .mark { fill: #79b0ff }
  }
</style>"""


@dataclasses.dataclass
class Panel:
    name: str
    values: list          # one (lowest, median, highest) for each place
    ticks: list           # of the vertical axis; the first and the last are its ends
    logarithmic: bool = False
    form: str = "{:.0f}"  # of a value


def ticks_to(highest, count=4):
    """0, and round steps up to `highest` or a little more."""
    rough = highest / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    return [i * step for i in range(math.ceil(highest / step) + 1)]


def decades(lowest, highest):
    """Powers of ten around the values, with 2 and 5 between them that bound them closest."""
    all_ticks = [m * 10 ** e for e in range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1) for m in (1, 2, 5)]
    begin = max(i for i, t in enumerate(all_ticks) if t <= lowest)
    end = min(i for i, t in enumerate(all_ticks) if t >= highest)
    return all_ticks[begin:end + 1]


def text(x, y, words, anchor="middle", kind="", size=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}"{size}>{html.escape(words)}</text>'


def draw_panel(panel, xs, top):
    scale = math.log if panel.logarithmic else float
    low, high = scale(panel.ticks[0]), scale(panel.ticks[-1])

    def y(value):
        return top + PANEL * (1 - (scale(value) - low) / (high - low))

    out = [text(LEFT - 8, top - 12, panel.name, "start")]
    for tick in panel.ticks:
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        out.append(text(LEFT - 8, y(tick) + 4, f"{tick:g}", "end", "soft"))
    out.append('<polyline class="line" points="' + " ".join(f"{x:.1f},{y(v[1]):.1f}" for x, v in zip(xs, panel.values)) + '"/>')
    for x, (lowest, median, highest) in zip(xs, panel.values):
        out.append(f'<line class="range" x1="{x:.1f}" x2="{x:.1f}" y1="{y(lowest):.1f}" y2="{y(highest):.1f}"/>')
        out.append(f'<circle class="mark" cx="{x:.1f}" cy="{y(median):.1f}" r="4"/>')
        out.append(text(x, y(highest) - 9, panel.form.format(median)))
    return out


def svg(title, axis, places, labels, panels):
    """`places`: positive numbers, drawn on a logarithmic axis; `labels`: their names, several lines with \\n."""
    first, range_ = math.log(places[0]), math.log(places[-1] / places[0]) or 1
    inner = WIDTH - LEFT - RIGHT - 60
    xs = [LEFT + 30 + inner * (math.log(p) - first) / range_ for p in places]
    floor = TOP + 24 + len(panels) * (PANEL + GAP) - GAP
    height = floor + BOTTOM
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">', f"<title>{html.escape(title)}</title>", STYLE,
           '<rect class="page" width="100%" height="100%"/>', text(LEFT - 8, 24, title, "start", "title")]
    for i, panel in enumerate(panels):
        out += draw_panel(panel, xs, TOP + 24 + i * (PANEL + GAP))
    for x, label in zip(xs, labels):
        out += [text(x, floor + 18 + 14 * i, line, kind="soft" if i else "") for i, line in enumerate(label.split("\n"))]
    out.append(text(WIDTH - RIGHT, height - 6, axis, "end", "soft"))
    return "\n".join(out) + "\n</svg>\n"
