#!/usr/bin/python3
"""Compares what the daemons' pages say of endings, statuses and log fields with the sources.

Usage: check_reasons.py TOP

Each way both ways. attest-relay(8): relay/reason.def and the section REASONS (word, class,
explanation); the statuses of relay/refusal.c and the table in Refusals. Both pages: the keys of
log fields and the section LOG. Words are kebab-case and unique. relay/audit.def, docs/audit.md and its schema; and that nothing but audit.c counts
refusals. Prints each difference; exits 1 if there is one.
"""
import glob
import json
import os
import re
import sys

PAGE = 'relay/attest-relay.8'
# the relay's lines that have fields
LOGGERS = ['relay/opening_log.c', 'tunnel/h2_door.c', 'tunnel/hub_log.c']
BRIDGE_PAGE = 'qgs-bridge/qgs-bridge.8'
BRIDGE_LOGGERS = ['qgs-bridge/caller.c']


def read(top, path):
    with open(f'{top}/{path}', encoding='utf-8') as file:
        return file.read()


def section(page, macro, title):
    found = re.search(rf'^\.{macro} {title}$(.*?)(?=^\.(?:Sh{"|Ss" if macro == "Ss" else ""}) |\Z)',
                      page, re.M | re.S)
    return found[1] if found else ''


def items(text):
    """[(what follows .It, the plain body)]"""
    parts = re.split(r'^\.It (.*)$', text, flags=re.M)
    return [(head, ' '.join(body.split('\n.El')[0].split()))
            for head, body in zip(parts[1::2], parts[2::2])]


def compare(what, source, has, page, where=PAGE):
    """has, page: {name: facts}"""
    wrong = [] if has else [f'{source}: found no {what} there: does this test still understand it?']
    for name in has:
        if name not in page:
            wrong.append(f'{where}: {what} {name} of {source} is not there')
        elif page[name] != has[name]:
            wrong.append(f'{where}: {what} {name}: "{page[name]}", but {source} says "{has[name]}"')
    return wrong + [f'{where}: {what} {name} is unknown to {source}' for name in page if name not in has]


def read_reasons(top):
    """[(symbol, word, class, explanation)]"""
    text = read(top, 'relay/reason.def')
    rows = re.findall(r'^REASON\((\w+),\s*"([^"]*)",\s*(\w+),\s*"([^"]*)"\)', text, re.M)
    if len(rows) != len(re.findall(r'^REASON\(', text, re.M)):
        sys.exit('relay/reason.def: a row is not of the form REASON(SYMBOL, "word", CLASS, "text")')
    return rows


def check_words(rows):
    wrong, seen = [], set()
    for symbol, word, kind, explanation in rows:
        if not re.fullmatch(r'[a-z]+(-[a-z]+)*', word):
            wrong.append(f'"{word}" is not kebab-case')
        if word in seen:
            wrong.append(f'"{word}" stands there twice')
        if word.replace('-', '_').upper() != symbol:
            wrong.append(f'"{word}" is not the word of {symbol}')
        if kind not in ('CLEAN', 'ABORT'):
            wrong.append(f'{symbol} is of class {kind}')
        if not explanation or explanation[-1] == '.':
            wrong.append(f'{symbol}: one line of explanation, without a full stop')
        seen.add(word)
    return [f'relay/reason.def: {text}' for text in wrong]


def check_reasons(rows, page):
    has = {word: f'{kind.lower()}: {explanation}'.lower()
           for _, word, kind, explanation in rows if word != 'none'}
    told = {}
    for head, body in items(section(page, 'Sh', 'REASONS')):
        found = re.fullmatch(r'Cm (\S+) Pq (\w+)', head)
        name = found[1] if found else head
        told[name] = f'{found[2] if found else "?"}: {body.rstrip(".")}'.lower()
    return compare('reason', 'relay/reason.def', has, told)


def check_statuses(rows, top, page):
    text = read(top, 'relay/refusal.c')
    words = {symbol: word for symbol, word, _, _ in rows}
    function = re.search(r'^} answer_to\(.*?^}', text, re.M | re.S)
    phrases = dict(re.findall(r'case (\d+):\s*return "([^"]+)";', text))
    statuses, errors, pending = {}, {}, []
    for symbol, status, error in re.findall(r'case REASON_(\w+):|\{ (\d+), "(\w+)" \};',
                                            function[0] if function else ''):
        if symbol:
            pending.append(words[symbol])
        elif pending:
            statuses.setdefault(status, [phrases.get(status, '?')]).extend(pending)
            errors.setdefault(error, []).extend(pending)
            pending = []
    told_statuses, told_errors = {}, {}
    for head, body in items(section(page, 'Ss', 'Refusals')):
        found = re.fullmatch(r'Li (?:(\d+) (.+)|(\w+))', head)
        if found and not body.startswith('Any other'):
            reasons = sorted(re.findall(r'\.Cm (\S+)', body))
            if found[1]:
                told_statuses[found[1]] = ' '.join([found[2], *reasons])
            else:
                told_errors[found[3]] = ' '.join(reasons)
    has_statuses = {k: ' '.join([v[0], *sorted(v[1:])]) for k, v in statuses.items() if k != '502'}
    has_errors = {k: ' '.join(sorted(v)) for k, v in errors.items() if k != 'proxy_internal_error'}
    return (compare('status', 'relay/refusal.c', has_statuses, told_statuses)
            + compare('error type', 'relay/refusal.c', has_errors, told_errors))


def check_log_fields(top, page, loggers, where):
    has = {}
    for path in loggers:
        for array in re.findall(r'struct log_field \w+\[\] = \{(.*?)\n\t\};', read(top, path), re.S):
            has |= {key: '' for key in re.findall(r'\{ "(\w+)",', array)}
    told = {}
    for head, _ in items(section(page, 'Sh', 'LOG')):
        told |= {key: '' for key in re.sub(r'^Va ', '', head).replace(',', ' ').split()}
    return compare('log field', ' and '.join(loggers), has, told, where)


def check_audit(top):
    """Each kind of record in the document and the schema; and no refusal is counted without one."""
    rows = re.findall(r'^AUDIT\(\w+,\s*"([^"]*)",\s*\w+,\s*\d,\s*"([0-9a-f]{32})", "([^"]*)"\)$',
                      read(top, 'relay/audit.def'), re.M)
    document = read(top, 'docs/audit.md')
    told = dict(re.findall(r'^\| `([a-z-]+)` \| .* \| `([0-9a-f]{32})` \|$', document, re.M))
    wrong = compare('audit record', 'relay/audit.def', {word: number for word, number, _ in rows},
                    told, 'docs/audit.md')
    schema = json.loads(read(top, 'docs/audit.schema.json'))
    if sorted(schema['properties']['event']['enum']) != sorted(told):
        wrong.append('docs/audit.schema.json: its events are not those of docs/audit.md')
    fields = set(re.findall(r'`([a-z_]+)`', ' '.join(
        line.split('|')[1] for line in document.splitlines() if re.match(r'\| `[a-z_]+`[^|]*\| ', line))))
    fields = {x for x in fields - set(told) if not x.startswith('attest_relay_')}
    if fields != set(schema['properties']):
        wrong.append('docs/audit.schema.json and docs/audit.md differ in the fields '
                     f'{sorted(fields ^ set(schema["properties"]))}')
    for path in sorted(glob.glob(f'{top}/relay/*.c') + glob.glob(f'{top}/tunnel/*.c')):
        if re.search(r'(?:refused|sessions|h2_clients)\[\w', open(path, encoding='utf-8').read()):
            wrong.append(f'{os.path.relpath(path, top)}: counts a refusal or the end of a session; '
                         'audit_write does, with its record')
    return [x for x in wrong if not x.startswith('relay/audit.c:')]


def main():
    top, = sys.argv[1:]
    rows, page = read_reasons(top), read(top, PAGE)
    wrong = check_words(rows) + check_reasons(rows, page) + check_statuses(rows, top, page)
    wrong += check_log_fields(top, page, LOGGERS, PAGE)
    wrong += check_audit(top)
    bridge = read(top, BRIDGE_PAGE)
    wrong += check_log_fields(top, bridge, BRIDGE_LOGGERS, BRIDGE_PAGE)
    print('\n'.join(wrong) or f'{len(rows)} reasons, statuses and log fields agree')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
