#!/usr/bin/env python3
"""Files of the status page as C, to be part of the program.

Usage: generate.py FILE ... > page_files.c
"""
import hashlib
import os
import sys

TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


def as_c(path):
    with open(path, "rb") as f:
        data = f.read()
    stem, extension = os.path.splitext(os.path.basename(path))
    name = f"{stem}_{extension[1:]}"
    yield f"static const char {name}[] = {{"
    for i in range(0, len(data), 20):
        yield "\t" + " ".join(f"{b}," for b in data[i:i + 20])
    yield "};\n"
    yield f"const struct page_file page_{name} = {{"
    yield f'\t.type = "{TYPES[extension]}",'
    yield f'\t.etag = "\\"{hashlib.sha256(data).hexdigest()[:16]}\\"",'
    yield f"\t.text = {name},\n\t.len = sizeof({name}),\n}};\n"


def main():
    print('/* Made by relay/page/generate.py. */\n#include "relay/page_files.h"\n')
    for path in sys.argv[1:]:
        print("\n".join(as_c(path)))


if __name__ == "__main__":
    main()
