#!/usr/bin/python3
"""Compares docs/admin-api.md with the tables of routes in the sources, both ways.

Usage: check_admin_api.py TOP

Each program's section has a row for each route of its table, and no other; what changes something (POST) is of
the scope ADMIN_CONTROL, which is for Unix sockets, and what does not is not. A path that ends in '/' in the
sources goes on with a word in capitals in the document. Prints each difference; exits 1 if there is one.
"""
import re
import sys

PROGRAMS = {'attest-relay': 'relay/admin_relay.c', 'attest-tunnel': 'tunnel/admin_tunnel.c',
            'qgs-bridge': 'qgs-bridge/admin_bridge.c'}
PAGE = 'docs/admin-api.md'


def read(top, path):
    with open(f'{top}/{path}', encoding='utf-8') as file:
        return file.read()


def in_source(text):
    """{(method, path): scope}"""
    return {(method, path): scope for method, path, scope in re.findall(
        r'\{\s*"(\w+)",\s*"(/[^"]*)",\s*ADMIN_(\w+),', text)}


def in_document(text, program):
    section = re.search(rf'^## Routes of {program}$(.*?)(?=^## |\Z)', text, re.M | re.S)
    rows = re.findall(r'^\| `(GET|POST) (/\S*)` \|', section[1] if section else '', re.M)
    return [(method, re.sub(r'(?<=/)[A-Z]+(/.*)?$', '', path)) for method, path in rows]


def main():
    top, = sys.argv[1:]
    text, wrong, found = read(top, PAGE), [], 0
    for program, path in PROGRAMS.items():
        has, told = in_source(read(top, path)), in_document(text, program)
        found += len(has)
        wrong += [f'{PAGE}: {program}: {" ".join(x)} is not there' for x in has if x not in told]
        wrong += [f'{PAGE}: {program}: {" ".join(x)} is not in {path}' for x in told if x not in has]
        wrong += [f'{PAGE}: {program}: {" ".join(x)} twice' for x in set(told) if told.count(x) > 1]
        wrong += [f'{path}: {" ".join(x)} has the scope {scope}' for x, scope in has.items()
                  if (x[0] == 'GET') == (scope == 'CONTROL')]
    if found < 30:
        wrong.append(f'only {found} routes found: does this test still understand the sources?')
    print('\n'.join(wrong) or f'{found} routes are as {PAGE} says')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
