"""What a run of the benchmarks leaves: tables to read, JSON to compare, a picture to look at."""
import json
import os
import statistics
import subprocess

import targets

# title, then (column, cell, figure, more is better, scale)
TABLES = (
    ("new streams, 16 at once: connect, request of 1 KiB, reply of 4 KiB, close", (
        ("streams/s", "new", "per_second", True, 1),
        ("p50 us", "new", "p50_us", False, 1),
        ("p99 us", "new", "p99_us", False, 1),
        ("CPU ms per stream", "new", "cpu_per_1000", False, 1))),   # s per 1,000: the same number
    ("one stream, request and reply in turn; streams that are open and idle", (
        ("ping-pong p50 us", "pingpong", "p50_us", False, 1),
        ("ping-pong p99 us", "pingpong", "p99_us", False, 1),
        ("KiB per idle stream", "idle", "bytes_per_stream", False, 1024),
        ("MiB without any", "idle", "base_bytes", False, 1 << 20))),
    ("bulk, MB/s confirmed by the far end", tuple(
        (title, cell, "MB_per_second", True, 1) for cell, title in targets.BULK.items())),
    ("bulk, CPU seconds per GB", tuple(
        (title, cell, "cpu_per_gb", False, 1) for cell, title in targets.BULK.items())),
)
GROUPS = (
    ("plain", "plain relays: streams in the clear, one connection on either side"),
    ("tunnel", "tunnels: encrypted between two programs, CPU and memory of both together"),
)


def short(value):
    """Three digits that count."""
    if value is None:
        return "-"
    if abs(value) >= 10000:
        return f"{value / 1000:.1f}k" if abs(value) < 100000 else f"{value / 1000:.0f}k"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def spread(values, more_is_better):
    """best..worst (median)"""
    values = sorted(values, reverse=more_is_better)
    if len(values) == 1:
        return short(values[0])
    return f"{short(values[0])}..{short(values[-1])} ({short(statistics.median(values))})"


def columns(rows, indent="  "):
    """Text in columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["".join([indent, row[0].ljust(widths[0]),
                     *("  " + text.rjust(width) for text, width in zip(row[1:], widths[1:]))])
            for row in rows]


def figures_of(results, subject, cell, figure):
    """Of the rounds that have one; none at all if one erred."""
    if targets.erred(results, subject, cell):
        return []
    return [v for v in targets.series(results, subject, cell, figure) if v is not None]


# ---- tables ----

def entry(results, subject, cell, figure, more_is_better, scale):
    if targets.erred(results, subject, cell):
        return ERR
    values = [v / scale for v in figures_of(results, subject, cell, figure)]
    return spread(values, more_is_better) if values else "-"


def without_empty(rows):
    """Of a table, the columns in which there is something."""
    keep = [i for i in range(len(rows[0])) if any(r[i] != "-" for r in rows[1:])]
    return [[r[i] for i in keep] for r in rows]


def subject_tables(results):
    for group, title in GROUPS:
        names = [n for n, s in results["subjects"].items() if group in s["groups"]]
        if not names:
            continue
        yield f"== {title}"
        width = max(map(len, names))
        yield from (f"  {n.ljust(width)}  {results['subjects'][n]['what']}" for n in names)
        for heading, figures in TABLES:
            rows = [[n, *(entry(results, n, *f[1:]) for f in figures)] for n in names]
            rows = [r for r in rows if any(x != "-" for x in r[1:])]
            if rows:
                yield f"\n  {heading}"
                yield from columns(without_empty([["", *(f[0] for f in figures)], *rows]))
        yield ""


def special_table(results):
    if not results["special"]:
        return
    yield "== figures of attest-relay alone"
    rows = []
    for f in results["special"]:
        if f["skipped"]:
            value = "skipped"
        elif f["error"]:
            value = ERR
        else:
            value = spread(f["rounds"] or [f["value"]], f["better"] == "higher")
        rows.append((f"{f['title']} [{f['name']}]", value, f["unit"]))
    yield from columns(rows)
    for f in results["special"]:
        if f["skipped"] or f["error"]:
            yield f"  {f['name']}: {f['skipped'] or f['error']}"
    yield ""


def target_table(results):
    rows = [("", "wanted", "best", "median", "worst", "")]
    for t in results["targets"]:
        if results["settings"]["only"] and not t["values"] and not t["erred"]:
            continue
        numbers = [short(t[k]) for k in ("best", "median", "worst")] if t["values"] else ["-"] * 3
        rows.append((t["what"], wanted(t), *numbers, verdict(t)))
    if len(rows) == 1:
        return
    yield "== targets: each round against the peer's figure in the same round; the median " \
        "decides, of black holes the worst"
    yield from columns(rows)
    verdicts = [row[-1] for row in rows]
    yield "  " + ", ".join(f"{verdicts.count(v)} {word}" for v, word in VERDICTS.items())
    yield ""


ERR, MET, MISSED, ABSENT = "ERR", "met", "MISSED", "not measured"
VERDICTS = {MET: "met", MISSED: "missed", ERR: "not met for an error", ABSENT: "not measured"}


def wanted(target):
    if target["bound"] is None:
        return ""
    unit = "x" if target["unit"] == "x" else f" {target['unit']}"
    return f"{'>=' if target['at_least'] else '<='} {target['bound']:.3g}{unit}"


def verdict(target):
    if target["erred"]:
        return ERR
    if not target["values"]:
        return ABSENT
    return {True: MET, False: MISSED, None: ""}[target["met"]]


def text(results):
    machine, settings = results["machine"], results["settings"]
    lines = [
        f"attest-relay {machine['commit']}, {machine['build']}",
        f"{machine['cores']} x {machine['cpu']}, Linux {machine['kernel']}, "
        f"TCP {machine['congestion_control']}, {machine['date']}, "
        f"{'as root' if machine['root'] else 'not as root'}",
        ", ".join(f"{k} {v}" for k, v in machine["versions"].items()),
        f"{settings['rounds']} interleaved rounds, {settings['seconds']:g} s a figure; "
        "best..worst (median) of the rounds" if settings["seconds"] else
        "whether it works: the figures mean nothing", "",
        *subject_tables(results), *special_table(results)]
    if settings["ratios"]:
        lines += target_table(results)
    verified = [n for n, cells in results["warm_up"].items() if cells.get("verify", {}).get("ok")]
    if verified:
        lines.append(f"random data went through whole, both ways at once: {', '.join(verified)}")
    for name, why in results["skipped"].items():
        lines.append(f"skipped: {name}: {why}")
    lines += [f"ERR: {e}" for e in results["errors"]] or ["no errors"]
    return "\n".join(lines) + "\n"


# ---- the picture ----

OURS, PEER, NONE = "0x2166ac", "0xb0b0b0", "0x666666"
CHARTS = (      # heading, (cell, figure, scale, name of the bar)...
    ("new streams/s, 16 at once (more is better)", (("new", "per_second", 1, ""),)),
    ("ping-pong p50, us (less is better)", (("pingpong", "p50_us", 1, ""),)),
    ("bulk, MB/s (more is better)", tuple(
        (cell, "MB_per_second", 1, title) for cell, title in targets.BULK.items())),
    ("bulk, CPU seconds per GB (less is better)", tuple(
        (cell, "cpu_per_gb", 1, title) for cell, title in targets.BULK.items())),
    ("memory of an idle stream, KiB (less is better; logarithmic)",
     (("idle", "bytes_per_stream", 1024, ""),)),
)


def bars(results, names, chart):
    """gnuplot's data: a line for each subject; median, least, most for each bar of it."""
    for n in names:
        fields = []
        for cell, figure, scale, _ in chart:
            values = [v / scale for v in figures_of(results, n, cell, figure)]
            fields += [statistics.median(values), min(values), max(values)] if values else ["?"] * 3
        s = results["subjects"][n]
        color = OURS if s["ours"] else NONE if n == "direct" else PEER
        yield f'"{n}" {color} ' + " ".join(map(str, fields))


def script(results):
    yield "set datafile missing '?'\nset style fill solid 0.9 noborder\nset grid ytics lc '#dddddd'"
    yield "set border 3\nset tics nomirror\nset xtics rotate by -30"
    yield "set bmargin 5"
    yield f"set multiplot layout {len(CHARTS)},{len(GROUPS)} columnsfirst title " \
          f"'attest-relay {results['machine']['commit']}: blue is ours; whiskers: the rounds'"
    for group, _ in GROUPS:
        names = [n for n, s in results["subjects"].items() if group in s["groups"]
                 and any(n in r for r in results["rounds"])]
        for number, (heading, chart) in enumerate(CHARTS):
            data = list(bars(results, names, chart))
            if not any(figures_of(results, n, *c[:2]) for n in names for c in chart):
                yield "set multiplot next"
                continue
            block = f"${group}{number}"
            yield f"{block} << END\n" + "\n".join(data) + "\nEND"
            which = "; bars: " + ", ".join(c[3] for c in chart) if len(chart) > 1 else ""
            yield f"set title '{group}: {heading}{which}'"
            yield "set xtics (" + ", ".join(f'"{n}" {i}' for i, n in enumerate(names)) + ")"
            yield from plot(block, chart, len(names), "logarithmic" in heading)
    yield "unset multiplot"


def plot(block, chart, names, logarithmic):
    """Bars side by side within the room of a subject, of which there is one every 1.0."""
    width = 0.8 / len(chart)
    yield f"set xrange [-0.6:{names - 0.4}]"
    yield "set logscale y; set yrange [*:*]" if logarithmic else "unset logscale; set yrange [0:*]"
    parts = []
    for i, (_, _, _, title) in enumerate(chart):
        at = f"($0+{(i - (len(chart) - 1) / 2) * width:.3f})"
        value, least, most = (3 + 3 * i + k for k in range(3))
        shade = f"(shade($2,{i / len(chart):.2f}))"
        parts.append(f"{block} using {at}:{value}:({width * 0.92:.3f}):{shade} with boxes "
                     "lc rgb variable notitle")
        parts.append(f"{block} using {at}:{least}:(0):(${most}-${least}) with vectors nohead "
                     "lc 'black' notitle")
    yield "plot " + ", ".join(parts)


def picture(results, folder):
    """results.svg and results.png; returns what went wrong, or None."""
    # A color nearer to white, channel by channel.
    shade = ("mix(c,f) = int(c + (255 - c) * f)\n"
             "shade(c,f) = 65536 * mix(int(c) / 65536, f) + 256 * mix((int(c) / 256) % 256, f)"
             " + mix(int(c) % 256, f)\n")
    body = shade + "\n".join(script(results)) + "\n"
    for terminal, name in ("svg", "results.svg"), ("pngcairo", "results.png"):
        try:
            done = subprocess.run(
                ["gnuplot"], text=True, capture_output=True, timeout=60,
                input=f"set terminal {terminal} size 1500,1900 font 'sans,11'\n"
                      f"set output '{os.path.join(folder, name)}'\n" + body)
        except OSError as e:
            return f"no picture: gnuplot: {e.strerror}"
        if done.returncode:
            return f"no {name}: " + " ".join(done.stderr.split())[-300:]
    return None


def write(results, folder):
    """Returns the text, and what went wrong, if anything."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "results.json"), "w") as f:
        json.dump(results, f, indent=1)
        f.write("\n")
    tables = text(results)
    with open(os.path.join(folder, "results.txt"), "w") as f:
        f.write(tables)
    return tables, picture(results, folder)
