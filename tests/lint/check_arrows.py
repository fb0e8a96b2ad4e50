#!/usr/bin/python3
"""Holds #include to the arrows config <- relay <- tunnel <- qgs-bridge.

Usage: check_arrows.py TOP

A folder sees itself and what its arrows lead to; a program's main.c sees everything. What is included
in quotes is named from the top, is there, and a .c includes the header of its own name first. A few
libraries are known to few files, so that they can be replaced. Prints each fault; exits 1 if there
is one.
"""
import os
import re
import sys

SEES = {
    'config': {'config'},
    'relay': {'config', 'relay'},
    'tunnel': {'config', 'relay', 'tunnel'},
    'qgs-bridge': {'config', 'relay', 'tunnel', 'qgs-bridge'},
    'attestctl': {'attestctl'},
    'bench': {'bench', 'config', 'relay', 'tunnel'},
}
LIBRARIES = [   # header, who may include it, why
    (r'nghttp2/', r'tunnel/(session|stream|message)\w*\.[ch]|relay/version\.c',
     'HTTP/2 stays in the session; relay/version.c only asks for its version'),
    (r'yaml\.h', r'config/tree\.c|relay/version\.c',
     'config/tree.c alone knows libyaml; relay/version.c only asks for its version'),
    (r'json-c/', r'(relay|tunnel|qgs-bridge)/(admin|census|status_page|history|problems)\w*\.[ch]|attestctl/.*|'
     r'relay/version\.c', 'JSON is for the admin API and what asks it; relay/version.c only asks for its version'),
    (r'curl/', r'attestctl/.*', 'only attestctl is an HTTP client'),
    (r'(event2|openssl|systemd)/|sys/(socket|epoll)\.h', r'(?!config/).*',
     'config/ knows no sockets, no events and no logging'),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def sources(top):
    for folder in [*SEES, 'tests']:
        for where, _, names in os.walk(os.path.join(top, folder)):
            for name in sorted(names):
                if name.endswith(('.c', '.h', '.def')):
                    yield os.path.relpath(os.path.join(where, name), top)


def fault(top, path, quote, target):
    """What is wrong with one include, or None"""
    if quote == '<':
        for header, allowed, why in LIBRARIES:
            if re.match(header, target) and not re.fullmatch(allowed, path) and \
                    not path.startswith('tests/'):
                return f'includes <{target}>: {why}'
        return None
    if '/' not in target or '..' in target:
        return f'includes "{target}": name it from the top, "folder/file.h"'
    if not os.path.isfile(os.path.join(top, target)):
        return f'includes "{target}", which is not there'
    folder = path.split('/')[0]
    if folder != 'tests' and os.path.basename(path) != 'main.c' and \
            target.split('/')[0] not in SEES[folder]:
        return f'includes "{target}": {folder}/ sees only {", ".join(sorted(SEES[folder]))}'
    return None


def check(top, path):
    wrong, quoted = [], []
    with open(os.path.join(top, path), encoding='utf-8') as file:
        for number, line in enumerate(file, 1):
            found = INCLUDE.match(line)
            if not found:
                continue
            why = fault(top, path, *found.groups())
            if why:
                wrong.append(f'{path}:{number}: {why}')
            quoted.append((number, found[2]))
    own = path[:-2] + '.h'
    if path.endswith('.c') and os.path.isfile(os.path.join(top, own)) and \
            (not quoted or quoted[0][1] != own):
        wrong.append(f'{path}:{quoted[0][0] if quoted else 1}: its own header, {own}, comes first')
    return wrong


def main():
    top, = sys.argv[1:]
    paths = list(sources(top))
    wrong = [text for path in paths for text in check(top, path)]
    if len(paths) < 20:
        wrong.append(f'only {len(paths)} sources found: is {top} the top of the tree?')
    print('\n'.join(wrong) or f'{len(paths)} files hold to the arrows')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
