#!/usr/bin/python3
"""Rules of the house that no compiler knows.

Usage: check_style.py TOP

Of all C: the file opens with a comment; tabs indent; lines have at most 100 columns, a tab counting 8;
nothing is left to be done in a comment; headers are guarded by FOLDER_FILE_H. Of the programs
also: the opening comment is "name: what it is", and of a .c goes on with "Theory of operation" (a
main.c: "Stages"); a .c of more than 500 lines says in it why it is "Longer than other files".
Prints each fault as file:line; exits 1 if there is one.
"""
import os
import re
import sys

COLUMNS = 100
FILE_LINES = 500
# Lines between the braces of a function. A test may tell a longer story.
FUNCTION_LINES = 60
FUNCTION_LINES_TESTS = 70

PROGRAMS = {'bench': None, 'config': None, 'relay': 'attest-relay', 'tunnel': 'attest-tunnel',
            'qgs-bridge': 'qgs-bridge', 'attestctl': 'attestctl'}
UNFINISHED = re.compile(r'\b(TO' r'DO|FIX' r'ME|XX' r'X)\b')


def sources(top):
    for folder in [*PROGRAMS, 'tests']:
        for where, _, names in os.walk(os.path.join(top, folder)):
            for name in sorted(names):
                if name.endswith(('.c', '.h', '.def')):
                    yield os.path.relpath(os.path.join(where, name), top)


def check_lines(path, lines):
    for number, line in enumerate(lines, 1):
        width = len(line.expandtabs(8))
        if width > COLUMNS and not path.endswith('.def'):   # a row of a table is a line
            yield number, f'{width} columns; {COLUMNS} at most'
        if line != line.rstrip():
            yield number, 'white space at its end'
        if re.match(r'\t* +(?!\*)\S', line) and not re.match(r'\t+ {1,7}\S', line):
            yield number, 'indented by spaces; use tabs'
        if re.search(r'\S\t* +\t', line) and not re.search(r'["/\\]', line):
            yield number, 'spaces before a tab'
        found = UNFINISHED.search(line)
        if found:
            yield number, f'{found[1]}: do it, or say what is so'


def check_functions(lines, limit):
    start = None
    for number, line in enumerate(lines, 1):
        if line == '{':
            start = number
        elif line.startswith('}'):
            if line == '}' and start and number - start - 1 > limit:
                heading = start - 1
                while heading > 1 and re.match(r'\s', lines[heading - 1]):
                    heading -= 1
                name = re.search(r'(\w+)\(', lines[heading - 1])
                yield heading, (f'{name[1] if name else "a function"} has {number - start - 1} lines; '
                                f'{limit} at most')
            start = None


def check_opening(path, text, lines):
    folder, base = path.split('/')[0], os.path.basename(path)
    opening = text[:text.find('*/')] if text.startswith('/*') else ''
    if not opening:
        yield 1, 'does not open with a comment saying what it is'
        return
    if folder == 'tests' or base.endswith('.def'):
        return
    name = PROGRAMS[folder] if base == 'main.c' else base[:-2]
    if not re.match(r'/\*(?:\n \*)? ' + re.escape(name) + r': \S', opening):
        yield 1, f'its opening comment does not begin with "{name}: " and what it is'
    if base.endswith('.c'):
        wanted = 'Stages' if base == 'main.c' else 'Theory of operation'
        if wanted not in opening:
            yield 1, f'its opening comment has no "{wanted}"'
        if len(lines) > FILE_LINES and not re.search(r'Longer than other files', opening):
            yield 1, (f'{len(lines)} lines, and its opening comment does not say why it is '
                      '"Longer than other files"')


def check_guard(path, text):
    guard = re.sub(r'\W', '_', path).upper()
    if not re.search(rf'^#ifndef {guard}\n#define {guard}\n', text, re.M) or \
            not text.endswith('\n#endif\n'):
        yield 1, f'is not guarded by {guard}'


def check(top, path):
    with open(os.path.join(top, path), encoding='utf-8') as file:
        text = file.read()
    lines = text.splitlines()
    yield from check_lines(path, lines)
    yield from check_opening(path, text, lines)
    if path.endswith('.h'):
        yield from check_guard(path, text)
    yield from check_functions(
        lines, FUNCTION_LINES_TESTS if path.startswith('tests/') else FUNCTION_LINES)
    if not text.endswith('\n'):
        yield len(lines), 'no line feed at the end'


def main():
    top, = sys.argv[1:]
    paths = list(sources(top))
    wrong = [f'{path}:{number}: {what}' for path in paths for number, what in check(top, path)]
    if len(paths) < 20:
        wrong.append(f'only {len(paths)} sources found: is {top} the top of the tree?')
    print('\n'.join(wrong) or f'{len(paths)} files are in style')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
