#!/usr/bin/python3
"""Compares the config schema, the manual pages and the example files, both ways.

Usage: check_config_docs.py PRINT_SCHEMA TOP

Every key the library reads stands in the manual page, with its type, its default and its bounds, and
in the example, with its default in at least one place; and neither has a key the library does not
know. The example loads. Prints each difference; exits 1 if there is one.
"""
import re
import subprocess
import sys

import yaml

PROGRAMS = {
    'relay': ('config/relay.yaml.5', 'contrib/relay.yaml'),
    'tunnel': ('config/tunnel.yaml.5', 'contrib/tunnel.yaml'),
    'bridge': ('config/qgs-bridge.yaml.5', 'contrib/qgs-bridge.yaml'),
}
ITEM = re.compile(r'^\.It Ic (\S+) : Ar (.+?) Pq (.+)$')


def read_schema(tool):
    """{program: {path: (type, presence, mentions, help)}}"""
    out = subprocess.run([tool], check=True, capture_output=True, text=True).stdout
    schema = {program: {} for program in PROGRAMS}
    for line in out.splitlines():
        program, path, kind, presence, mentions, help_text = line.split('\t')
        schema[program][path] = (kind, presence, mentions, help_text)
    return schema


def read_page(text):
    """{path: (type, presence, body)} of the items in the section KEYS"""
    items, prefix, path, inside = {}, None, None, False
    twice = []
    for line in text.splitlines():
        if line.startswith('.Sh '):
            inside, path = line == '.Sh KEYS', None
        elif inside and line.startswith('.Ss '):
            title = line[4:].strip()
            prefix, path = '' if title == 'Top level' else title + '.', None
        elif inside and line.startswith('.It '):
            found = ITEM.match(line)
            if not found or prefix is None:
                twice.append('not of the form ".It Ic KEY : Ar TYPE Pq PRESENCE": ' + line)
                path = None
                continue
            path = prefix + found[1]
            if path in items:
                twice.append(path + ' stands there twice')
            items[path] = [found[2], found[3], '']
        elif inside and line.startswith('.El'):
            path = None
        elif path:
            items[path][2] += ' ' + line
    return items, twice


def plain(body):
    """mdoc text with its macros and escapes taken out, enough to look for words"""
    body = re.sub(r'(^| )\.[A-Z][a-z]\b', ' ', body)
    return ' '.join(body.replace('\\-', '-').replace('\\&', '').split())


def compare_page(program, schema, page):
    with open(page, encoding='utf-8') as file:
        items, wrong = read_page(file.read())
    for path, (kind, presence, mentions, _) in schema.items():
        if path not in items:
            wrong.append(f'{path} is not there')
            continue
        has_kind, has_presence, body = items[path]
        if has_kind != kind:
            wrong.append(f'{path} is of type "{has_kind}", the library says "{kind}"')
        if has_presence != presence:
            wrong.append(f'{path} is "{has_presence}", the library says "{presence}"')
        for word in filter(None, mentions.split('|')):
            if not re.search(r'(?<![\w-])' + re.escape(word) + r'(?![\w-])', plain(body)):
                wrong.append(f'{path} does not mention "{word}"')
        if 'restart' in body and 'restart' not in mentions:
            wrong.append(f'{path} needs no restart')
    for path in items:
        if path not in schema:
            wrong.append(f'{path} is not known to the library')
    return [f'{page}: {text}' for text in wrong]


def flatten(value, path, found):
    """{path: [values]}, list entries that have keys as PATH[]"""
    if isinstance(value, dict):
        for key, below in value.items():
            here = f'{path}.{key}' if path else str(key)
            found.setdefault(here, []).append(below)
            flatten(below, here, found)
    elif isinstance(value, list):
        for entry in value:
            if isinstance(entry, dict):
                flatten(entry, path + '[]', found)


def compare_example(program, schema, example, tool):
    run = subprocess.run([tool, program, example], capture_output=True, text=True, check=False)
    wrong = run.stderr.splitlines() if run.returncode else []
    with open(example, encoding='utf-8') as file:
        tree = yaml.load(file, Loader=yaml.BaseLoader)
    found = {}
    flatten(tree, '', found)
    for path, (kind, presence, _, _) in schema.items():
        if path not in found:
            wrong.append(f'{path} is not there')
        elif presence.startswith('default: '):
            default = presence[len('default: '):]
            expected = [default] if kind.startswith('list') else default
            if expected not in found[path]:
                wrong.append(f'{path} is nowhere its default, {default}')
    for path in found:
        if path not in schema:
            wrong.append(f'{path} is not known to the library')
    return [f'{example}: {text}' for text in wrong]


def main():
    tool, top = sys.argv[1:]
    wrong = []
    for program, schema in read_schema(tool).items():
        if not schema:
            wrong.append(f'{program}: the library knows no key')
        wrong += [f'{program}: {path} has no help'
                  for path, (_, _, _, help_text) in schema.items() if not help_text]
        page, example = PROGRAMS[program]
        wrong += compare_page(program, schema, f'{top}/{page}')
        wrong += compare_example(program, schema, f'{top}/{example}', tool)
    print('\n'.join(wrong) or 'schema, manual pages and examples agree')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
