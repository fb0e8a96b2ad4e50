#!/usr/bin/python3
"""Holds the documentation to what it speaks of.

Usage: check_docs.py TOP

docs/troubleshooting.md has a section for each word of relay/reason.def, and no other. Each link within the
project, in any of its Markdown files, leads to a file, and its anchor to a heading there. Each file of docs/ is
in docs/README.md. Prints each fault; exits 1 if there is one.
"""
import os
import re
import sys


def read(top, path):
    with open(os.path.join(top, path), encoding='utf-8') as file:
        return file.read()


def documents(top):
    for where, folders, names in os.walk(top):
        folders[:] = [x for x in folders if x[0] != '.' and not x.startswith('build')]
        for name in names:
            if name.endswith('.md'):
                yield os.path.relpath(os.path.join(where, name), top)


def anchors(text):
    """As GitHub makes them of headings"""
    heads = re.findall(r'^#+ (.*)$', text, re.M)
    return {re.sub(r'[^\w\- ]', '', head.lower()).replace(' ', '-') for head in heads}


def check_reasons(top):
    rows = re.findall(r'^REASON\(\w+,\s*"([^"]*)"', read(top, 'relay/reason.def'), re.M)
    path = 'docs/troubleshooting.md'
    told = re.findall(r'^### (\S+)$', read(top, path), re.M)
    wrong = [f'{path}: no section for the reason {word}' for word in rows[1:] if word not in told]
    wrong += [f'{path}: {word} is no reason' for word in told if word not in rows]
    wrong += [f'{path}: {word} twice' for word in set(told) if told.count(word) > 1]
    return wrong if rows else ['relay/reason.def: no rows found: does this test still understand it?']


def check_links(top, paths):
    wrong, found = [], 0
    for path in paths:
        text = re.sub(r'^    .*$', '', read(top, path), flags=re.M)  # not in code
        for target in re.findall(r'\]\(([^)\s]+)\)', text):
            if re.match(r'[a-z]+:', target):
                continue
            found += 1
            file, _, anchor = target.partition('#')
            to = os.path.normpath(os.path.join(os.path.dirname(path), file)) if file else path
            if not os.path.exists(os.path.join(top, to)):
                wrong.append(f'{path}: {target} leads nowhere')
            elif anchor and anchor not in anchors(read(top, to)):
                wrong.append(f'{path}: {target}: no such heading')
    return wrong if found > 20 else [f'only {found} links found: is {top} the top of the tree?']


def check_index(top, paths):
    index = read(top, 'docs/README.md')
    return [f'docs/README.md: does not name {path[5:]}' for path in paths
            if path.startswith('docs/') and path != 'docs/README.md' and f']({path[5:]})' not in index]


def main():
    top, = sys.argv[1:]
    paths = sorted(documents(top))
    wrong = check_reasons(top) + check_links(top, paths) + check_index(top, paths)
    print('\n'.join(wrong) or f'{len(paths)} documents hold')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
