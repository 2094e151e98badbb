# SPDX-License-Identifier: Apache-2.0
"""From what was measured to the figures, the table, and the aims that were met or missed. Everything here is TCG."""
import statistics

from watari_moves import PHASES

ACCEL = "tcg"


def summary(values):
    """(median, worst) of what was measured; (None, None) of nothing."""
    known = [value for value in values if value is not None]
    return (statistics.median(known), max(known)) if known else (None, None)


def median(rows, key):
    return summary([row[key] for row in rows])[0]


def worst(rows, key):
    return summary([row[key] for row in rows])[1]


def best_libvirt(rounds):
    """The shorter of libvirt's two ways, by its median: (name, ms); (None, None) where nothing was measured."""
    ways = [(median(rows, "blackout_ms"), name) for name, rows in rounds.items() if rows]
    return (min(ways)[1], min(ways)[0]) if ways else (None, None)


def figures(watari, libvirt):
    """The flat figures of --json. watari: {size: [move]}, libvirt: {size: {"buffered"|"bypass": [round]}}."""
    out = {"accel": ACCEL}
    for key, moves in watari.items():
        out[f"blackout_{key}_ms"] = median(moves, "blackout_ms")
        out[f"blackout_{key}_worst_ms"] = worst(moves, "blackout_ms")
        out[f"stop_resume_{key}_ms"] = median(moves, "stop_resume_ms")
        out[f"repair_{key}_ms"] = median(moves, "repair_ms")
        out[f"rest_{key}_ms"] = median(moves, "rest_ms")
        out[f"move_{key}_ms"] = median(moves, "move_ms")
        out[f"move_filled_{key}_ms"] = median(moves, "move_filled_ms")
        # A latency that did not come back while the client looked is worse than any number.
        out[f"calm_{key}_ms"] = worst(moves, "calm_ms") if all(move["calm_ms"] is not None for move in moves) else None
        for phase in moves[0]["phases_ms"]:
            out[f"phase_{phase}_{key}_ms"] = statistics.median(move["phases_ms"][phase] for move in moves)
    if watari:
        out["write_amplification"] = max(move["write_amplification"] for moves in watari.values() for move in moves)
    for key, rounds in libvirt.items():
        out[f"libvirt_save_{key}_ms"] = median(rounds["buffered"], "save_ms")
        out[f"libvirt_blackout_{key}_ms"] = median(rounds["buffered"], "blackout_ms")
        out[f"libvirt_bypass_save_{key}_ms"] = median(rounds["bypass"], "save_ms")
        out[f"libvirt_bypass_blackout_{key}_ms"] = median(rounds["bypass"], "blackout_ms")
        if watari.get(key):
            name = "libvirt_ratio" if key == "4g" else f"libvirt_ratio_{key}"
            out[name] = best_libvirt(rounds)[1] / out[f"blackout_{key}_ms"]
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in out.items()}


# (what, figure, limit, unit, True where more is better). The move's limit is libvirt's buffered save, in the same run.
AIMS = [
    ("blackout at 1 GiB, as the client sees it", "blackout_1g_ms", 100, "ms", False),
    ("blackout at 4 GiB, as the client sees it", "blackout_4g_ms", 400, "ms", False),
    ("of it at 1 GiB, everything but the repair", "rest_1g_ms", 50, "ms", False),
    ("of it at 4 GiB, everything but the repair", "rest_4g_ms", 50, "ms", False),
    ("shorter than the better of libvirt's two at 4 GiB", "libvirt_ratio", 10, "x", True),
    ("bytes written over RAM in use, worst move", "write_amplification", 1.2, "x", False),
    ("latency under twice its normal after RESUME, 1 GiB, worst move", "calm_1g_ms", 1000, "ms", False),
    ("latency under twice its normal after RESUME, 4 GiB, worst move", "calm_4g_ms", 1000, "ms", False),
    ("the whole move to RESUME at 4 GiB, against libvirt's buffered save", "move_4g_ms", "libvirt_save_4g_ms", "ms", False),
    ("the whole move until all pages are in at 4 GiB, against the same", "move_filled_4g_ms", "libvirt_save_4g_ms", "ms",
     False),
]


def judge(flat):
    """[{what, figure, value, limit, met}] for the aims whose figures this run has; met is a fact, not a rounding."""
    out = []
    for what, figure, limit, unit, more in AIMS:
        limit = flat.get(limit) if isinstance(limit, str) else limit
        if figure not in flat or limit is None:
            continue
        value = flat[figure]
        met = value is not None and (value >= limit if more else value <= limit)
        out.append({"what": what, "figure": figure, "value": value, "limit": limit, "unit": unit, "more": more, "met": met})
    return out


def number(value, unit=""):
    if value is None:
        return "not seen"
    if unit == "x":
        return f"{value:.2f} x" if value < 10 else f"{value:.1f} x"
    text = f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
    return f"{text} {unit}".rstrip()


def cell(values, unit="ms"):
    middle, most = summary(values)
    return f"{number(middle, unit)} ({number(most)})" if middle is not None else "not seen"


def table(keys, labels, rows):
    """rows: (name, {size: text}) or a heading (name, None)."""
    width = max(len(name) for name, cells in rows if cells is not None) + 2
    lines = [" " * width + "".join(f"{labels[key]:>26}" for key in keys)]
    for name, cells in rows:
        lines.append(name if cells is None else f"{name:<{width}}" + "".join(f"{cells.get(key, ''):>26}" for key in keys))
    return [line.rstrip() for line in lines]


def watari_rows(watari):
    def row(name, key, unit="ms"):
        return name, {size: cell([move[key] for move in moves], unit) for size, moves in watari.items()}

    def spread(name, pick, unit="ms"):
        return name, {size: cell([pick(move) for move in moves], unit) for size, moves in watari.items()}

    count = ", ".join(f"{len(moves)} at {size.upper()[0]} GiB" for size, moves in watari.items())
    rows = [(f"watari, quick migration, TCG: median (worst) of moves, {count}", None)]
    rows.append(row("  away, as the client outside sees it", "blackout_ms"))
    rows.append(row("  away, STOP to RESUME", "stop_resume_ms"))
    for _, phase, what in PHASES:
        rows.append(spread(f"    {what}", lambda move, phase=phase: move["phases_ms"][phase]))
    rows.append(row("  the client's last answer to STOP", "client_before_ms"))
    rows.append(row("  RESUME to the client's first answer", "client_after_ms"))
    rows.append(row("  everything but the repair, client's figure", "rest_ms"))
    rows.append(row("  everything but the repair, STOP to RESUME", "rest_stop_resume_ms"))
    rows.append(row("  latency under twice normal, after RESUME", "calm_ms"))
    rows.append(row("  normal latency", "normal_latency_ms"))
    rows.append(row("  whole move: order to RESUME", "move_ms"))
    rows.append(row("    prepare", "prepare_ms"))
    rows.append(row("    copy, while the guest runs", "copy_ms"))
    rows.append(row("  from RESUME until all pages are in", "fill_ms"))
    rows.append(spread("  written, MiB", lambda move: move["written_bytes"] / 2**20, ""))
    rows.append(spread("  RAM in use, MiB", lambda move: move["used_bytes"] / 2**20, ""))
    rows.append(row("  written over RAM in use", "write_amplification", "x"))
    rows.append(row("  pages repaired", "repaired_pages", ""))
    return rows


def libvirt_rows(libvirt, version):
    rows = []
    for way, name in (("buffered", "virsh save + restore"), ("bypass", "virsh save + restore, --bypass-cache")):
        count = ", ".join(f"{len(rounds[way])} at {size.upper()[0]} GiB" for size, rounds in libvirt.items())
        rows.append((f"libvirt {version}, {name}, TCG: median (worst), {count}", None))
        for title, key in (("  away, as the client outside sees it", "blackout_ms"), ("    virsh save", "save_ms"),
                           ("    virsh restore", "restore_ms")):
            rows.append((title, {size: cell([row[key] for row in rounds[way]]) for size, rounds in libvirt.items()}))
    return rows


def where_it_goes(watari):
    """For each size the phases of the client's blackout, longest first."""
    lines = []
    for key, moves in watari.items():
        parts = {what: statistics.median(move["phases_ms"][phase] for move in moves) for _, phase, what in PHASES}
        parts["client's last answer to STOP"] = median(moves, "client_before_ms")
        parts["RESUME to the client's first answer"] = median(moves, "client_after_ms")
        order = sorted(parts.items(), key=lambda part: -part[1])
        lines.append(f"  {key.upper()[0]} GiB: " + "; ".join(f"{what} {number(ms, 'ms')}" for what, ms in order if ms >= 0.05))
    return lines


def text(sizes, watari, libvirt, version, flat, notes):
    labels = {size.key: size.label for size in sizes}
    rows = (watari_rows(watari) if watari else []) + (libvirt_rows(libvirt, version) if libvirt else [])
    lines = table([size.key for size in sizes], labels, rows)
    ratios = [f"  {size.label}: libvirt's better one ({best_libvirt(libvirt[size.key])[0]}) is away "
              f"{best_libvirt(libvirt[size.key])[1] / flat[f'blackout_{size.key}_ms']:.1f} x as long as watari (TCG both)"
              for size in sizes if libvirt.get(size.key) and watari.get(size.key)]
    if ratios:
        lines += ["", "Ratio", *ratios]
    if watari:
        lines += ["", "Where the blackout goes (TCG, medians)", *where_it_goes(watari)]
    aims = judge(flat)
    if aims:
        lines += ["", "Aims (TCG)"]
        lines += [f"  {'met   ' if aim['met'] else 'MISSED'}  {aim['what']}: {number(aim['value'], aim['unit'])}, aim "
                  f"{'at least' if aim['more'] else 'at most'} {number(aim['limit'], aim['unit'])}" for aim in aims]
    if notes:
        lines += ["", *notes]
    return "\n".join(lines)
