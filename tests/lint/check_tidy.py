#!/usr/bin/python3
"""Runs clang-tidy (.clang-tidy says with which checks) over all sources, as many at once as there
are processors.

Usage: check_tidy.py TOP BUILD CLANG_TIDY

Zero findings. One that is wrong is suppressed where it is, with a reason:
    /* NOLINTNEXTLINE(CHECK): why */
Prints what it finds; exits 1 if that is anything.
"""
import concurrent.futures
import json
import os
import re
import subprocess
import sys

# Not the benches and the tests' tools: their lists of embedded nodes are beyond it, so that all it
# finds there is memory used after its end which is not.
FOLDERS = ('attestctl', 'config', 'relay', 'tunnel', 'qgs-bridge')


def read_sources(top, build):
    """{source, as seen from the top}: what has a command to compile it."""
    with open(os.path.join(build, 'compile_commands.json'), encoding='utf-8') as file:
        for entry in json.load(file):
            path = os.path.realpath(os.path.join(entry['directory'], entry['file']))
            path = os.path.relpath(path, top)
            if path.endswith('.c') and path.startswith(tuple(f + '/' for f in FOLDERS)):
                yield path


def check_reasons(top, sources):
    """A suppression has a reason behind it, in the same comment."""
    for path in sources:
        with open(os.path.join(top, path), encoding='utf-8') as file:
            for number, line in enumerate(file, 1):
                if 'NOLINT' in line and not re.search(r'NOLINT(NEXTLINE)?\([\w.,*-]+\): \S', line):
                    yield f'{path}:{number}: a NOLINT names its check and says why: (CHECK): WHY'


def main():
    top, build, tidy = os.path.realpath(sys.argv[1]), sys.argv[2], sys.argv[3]
    sources = sorted(set(read_sources(top, build)))
    if not sources:
        sys.exit('no sources in compile_commands.json')

    def run(path):
        return path, subprocess.run(
            [tidy, '-p', build, '--quiet', '--warnings-as-errors=*', path], cwd=top,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)

    faults = list(check_reasons(top, sources))
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for path, end in pool.map(run, sources):
            if end.returncode != 0:
                faults.append(f'{path}:\n{end.stdout or end.stderr}')
    print('\n'.join(faults) or f'{len(sources)} sources, no finding')
    sys.exit(1 if faults else 0)


if __name__ == '__main__':
    main()
