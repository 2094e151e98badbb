#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The layers are law: who may include whom (ARCHITECTURE.md), and what the core may call.

usage: layers.py includes SOURCE_DIR | layers.py core-symbols ARCHIVE...
"""
import pathlib
import re
import subprocess
import sys

# Folder of src → folders whose headers it may include, beside its own. The longest match counts.
MAY = {
    "base": [],
    "model": ["base"],
    "core": ["model", "base"],
    "port": ["model", "base"],
    "driver": ["port", "model", "base"],
    "engine": ["core", "port", "model", "base"],
    "api": ["model", "base"],
    "stream": ["base"],
    "sim": ["engine", "core", "port", "model", "base", "driver/fake"],
    "cmd": ["api", "engine", "driver", "port", "model", "base", "stream", "sim", "core"],
}
# Single headers beyond the table, each with its reason.
ALSO = {
    "api": {"engine/service.h": "what the API may ask of the engine",
            "port/loop.h": "it waits on sockets"},
    "driver/qemu": {"stream/protocol.h": "the wire contract with watari-stream"},
    "driver/fake": {},
}
# The core decides; what it must not reach even through base.
CORE_NEVER = {"base/json.h", "base/log.h", "jansson.h", "stdlib.h", "time.h", "unistd.h", "pthread.h"}
OUTSIDE = {  # a library's header → the only files that may include it
    "jansson.h": re.compile(r"base/json\.h|stream/.*|driver/qemu/.*|api/.*|cmd/.*"),
    "sqlite3.h": re.compile(r"driver/sqlite/.*"),
    "systemd/sd-event.h": re.compile(r"driver/linux/.*"),
    "libxml/parser.h": re.compile(r"driver/fence/.*"),
    "libxml/tree.h": re.compile(r"driver/fence/.*"),
    "corosync/cpg.h": re.compile(r"driver/corosync/.*"),
    "xxhash.h": re.compile(r"base/hash\.c|stream/.*"),
}
# What the core's objects may leave undefined: libc without clock, I/O, allocation, randomness or log.
PURE = re.compile(
    r"mem(cpy|move|set|cmp)|str(len|nlen|cmp|ncmp|chr|str|cpy|spn|cspn|rchr)|(v?snprintf|__v?snprintf_chk)|"
    r"__mem(cpy|set|move)_chk|__strcpy_chk|__assert_fail|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_|__popcountdi2|"
    r"strerror_r|__isoc99_sscanf")


def folder_of(path):
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "driver" else parts[0]


def allowed(folder, header):
    target = folder_of(header)
    if target == folder:
        return True
    if header in ALSO.get(folder, {}):
        return True
    may = MAY[folder.split("/")[0]]
    return target in may or target.split("/")[0] in may


def check_includes(root):
    wrong = []
    src = pathlib.Path(root) / "src"
    for file in sorted(src.rglob("*.[ch]")):
        name = str(file.relative_to(src))
        folder = folder_of(name)
        for line in file.read_text().splitlines():
            found = re.match(r'\s*#\s*include\s+["<]([^">]+)[">]', line)
            if not found:
                continue
            header = found[1]
            if (src / header).exists() and not allowed(folder, header):
                wrong.append(f"{name} includes {header}: {folder} may not")
            if folder == "core" and header in CORE_NEVER:
                wrong.append(f"{name} includes {header}: the core is pure")
            if header in OUTSIDE and not OUTSIDE[header].fullmatch(name):
                wrong.append(f"{name} includes <{header}>: only {OUTSIDE[header].pattern} may")
    return wrong


def check_core(archives):
    undefined, defined = {}, set()
    for archive in archives:
        out = subprocess.run(["nm", "-A", archive], capture_output=True, text=True, check=True).stdout
        for line in out.splitlines():
            where, _, rest = line.rpartition(":")
            kind, name = rest.split()[-2:]
            if kind in "Uw":
                undefined.setdefault(name, where)
            else:
                defined.add(name)
    return [f"{where} needs {name}: not on the list of pure functions" for name, where in sorted(undefined.items())
            if name not in defined and not PURE.fullmatch(name) and not name.startswith(("__asan", "__ubsan", "__sanitizer"))]


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "includes":
        wrong = check_includes(sys.argv[2])
    elif len(sys.argv) >= 3 and sys.argv[1] == "core-symbols":
        wrong = check_core(sys.argv[2:])
    else:
        sys.exit(__doc__)
    print("\n".join(wrong) or "every file keeps to its layer")
    sys.exit(bool(wrong))


main()
