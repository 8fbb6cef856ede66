"""Draws what the dashboard's queries gave, without Grafana: draw.py FIGURES.json PICTURE.png

tests/e2e/run --only each_query_of_the_dashboard leaves the figures in target/e2e/monitoring.json.
Needs matplotlib 3.10 (PyPI).
"""

import json
import re
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

WIDTH = 2


def main(figures, picture):
    panels = json.load(open(figures))
    rows = -(-len(panels) // WIDTH)
    _, axes = plt.subplots(rows, WIDTH, figsize=(11, 1.75 * rows), layout="constrained")
    for axis, panel in zip(axes.flat, panels):
        axis.set_title(f"{panel['title']} ({panel['unit']})", fontsize=8, loc="left")
        for line in panel["lines"]:
            legend = re.sub(r"{{(\w+)}}", lambda found: line["labels"].get(found[1], ""), line["legend"])
            end = line["values"][-1][0]
            if len(line["values"]) < 2:
                continue
            times, values = zip(*((at - end, float(value)) for at, value in line["values"]))
            axis.plot(times, values, label=legend, linewidth=1)
        # Above the highest, so that a line that stays where it is can be told from the edge.
        highest = max((value for line in axis.lines for value in line.get_ydata() if value == value), default=0)
        axis.set_ylim(0, 1.25 * highest or 1)
        axis.tick_params(labelsize=6)
        if axis.lines:
            axis.legend(fontsize=5, loc="upper left")
    plt.savefig(picture, dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
