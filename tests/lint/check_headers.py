#!/usr/bin/python3
"""Compiles each header by itself, with the flags of its folder's sources and all warnings as errors.

Usage: check_headers.py TOP BUILD

It is included twice, so a missing guard shows too. Prints what the compiler says; exits 1 if a header
does not compile.
"""
import concurrent.futures
import glob
import json
import os
import shlex
import subprocess
import sys

FOLDERS = ['attestctl', 'bench', 'config', 'relay', 'tunnel', 'qgs-bridge', 'tests/unit']
DROPPED = {'-c', '-MD', '-pipe'}
DROPPED_WITH_VALUE = {'-o', '-MF', '-MQ', '-MT'}


def flags_of(command, source):
    """The compiler and its flags, without input and outputs"""
    words, kept, skip = shlex.split(command), [], False
    for word in words:
        if skip or word in DROPPED_WITH_VALUE:
            skip = not skip
        elif word not in DROPPED and word != source:
            kept.append(word)
    return kept


def read_commands(top, build):
    """{folder: (directory, words)}"""
    found = {}
    with open(os.path.join(build, 'compile_commands.json'), encoding='utf-8') as file:
        for entry in json.load(file):
            source = os.path.join(entry['directory'], entry['file'])
            folder = os.path.relpath(os.path.dirname(os.path.realpath(source)), os.path.realpath(top))
            if source.endswith('.c'):
                # of several sources the one with most include paths: it sees all of its folder's
                words = flags_of(entry['command'], entry['file'])
                if folder not in found or len(words) > len(found[folder][1]):
                    found[folder] = (entry['directory'], words)
    return found


def compile_alone(header, directory, words):
    text = f'#include "{header}"\n#include "{header}"\nint a_header_is_no_empty_unit;\n'
    # nothing is generated, so what only matters then may warn for no reason
    run = subprocess.run([*words, '-Wno-unused-macros', '-Werror', '-fsyntax-only', '-x', 'c', '-'],
                         cwd=directory, input=text, capture_output=True, text=True, check=False)
    return '' if run.returncode == 0 else f'{header} does not compile alone:\n{run.stderr.rstrip()}'


def main():
    top, build = sys.argv[1:]
    commands, jobs, wrong = read_commands(top, build), [], []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for folder in FOLDERS:
            for path in sorted(glob.glob(f'{top}/{folder}/*.h')):
                header = os.path.relpath(path, top)
                if folder in commands:
                    jobs.append(pool.submit(compile_alone, header, *commands[folder]))
                else:
                    wrong.append(f'{header}: no source of its folder is compiled, so no flags are known')
    wrong += filter(None, (job.result() for job in jobs))
    if len(jobs) < 20:
        wrong.append(f'only {len(jobs)} headers found: is {top} the top of the tree?')
    print('\n'.join(wrong) or f'{len(jobs)} headers compile alone')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
