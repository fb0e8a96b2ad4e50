#!/usr/bin/python3
"""Holds alerts and dashboard against docs/metrics.md, and has promtool check and test the alerts.

Usage: check_metrics.py TOP

contrib/prometheus: the rules are good (promtool check rules) and pass their tests; each alert has a summary, a
description, a severity, and two tests, one that it fires and one that it is silent. contrib/grafana: the JSON is
well-formed, panels have unique ids and titles, do not overlap, and ask the data source that is chosen in the
dashboard. Both: every metric and label named is one of docs/metrics.md. Prints each fault; exits 1 if there is
one, 77 without promtool.
"""
import json
import os
import re
import shutil
import subprocess
import sys

import yaml

SEVERITIES = {'page', 'ticket'}
OURS = re.compile(r'\b(?:attest_relay|attest_tunnel|qgs_bridge|process)_\w+')
# of scraping itself
BESIDE = {'instance', 'job', 'le', 'alertname', 'alertstate', 'severity'}


def documented(top):
    """{name: (type, its labels)}"""
    with open(f'{top}/docs/metrics.md', encoding='utf-8') as f:
        rows = re.findall(r'^\| `(\w+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$', f.read(), re.M)
    return {name: (kind, set(re.findall(r'`(\w+)`', labels))) for name, kind, labels in rows}


def base_of(series, has):
    base = re.sub('_(bucket|sum|count)$', '', series)
    return base if has.get(base, ('',))[0] == 'histogram' else series


def check_expression(where, text, has):
    """Names, labels in selectors, and no rate of a gauge."""
    wrong = []
    for found in re.finditer(OURS.pattern + r'(\{[^}]*\})?', text):
        series, selector = re.match(r'\w+', found[0])[0], found[1] or ''
        name = base_of(series, has)
        if name not in has:
            wrong.append(f'{where}: {series} is not in docs/metrics.md')
            continue
        labels = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)', re.sub(r'"[^"]*"', '""', selector)))
        for label in labels - has[name][1] - BESIDE:
            wrong.append(f'{where}: {name} has no label {label}')
        counts = has[name][0] in ('counter', 'histogram')
        if counts != bool(re.search(r'(?:rate|increase)\(\s*$', text[:found.start()])):
            wrong.append(f'{where}: {series} is a {has[name][0]}: a counter is for rate or increase, '
                         'and nothing else is')
    return wrong


def check_alerts(top, has):
    folder = f'{top}/contrib/prometheus'
    with open(f'{folder}/alerts.yml', encoding='utf-8') as f:
        rules = [r for g in yaml.safe_load(f)['groups'] for r in g['rules']]
    with open(f'{folder}/tests.yml', encoding='utf-8') as f:
        tests = yaml.safe_load(f)['tests']
    wrong, seen = [], {}
    for rule in rules:
        where = f'alerts.yml: {rule["alert"]}'
        seen[rule['alert']] = seen.get(rule['alert'], 0) + 1
        wrong += check_expression(where, rule['expr'], has)
        if rule.get('labels', {}).get('severity') not in SEVERITIES:
            wrong.append(f'{where}: its severity is none of {sorted(SEVERITIES)}')
        for part in ('summary', 'description'):
            if len(rule.get('annotations', {}).get(part, '')) < 20:
                wrong.append(f'{where}: no {part}, or hardly one')
    wrong += [f'alerts.yml: {name} stands there {n} times' for name, n in seen.items() if n > 1]
    outcomes = {}
    for test in tests:
        for x in test['promql_expr_test']:
            name = re.search(r'alertname="(\w+)"', x['expr'])[1]
            outcomes.setdefault(name, set()).add(bool(x['exp_samples']))
        for series in test['input_series']:
            for name in OURS.findall(series['series']):
                if base_of(name, has) not in has:
                    wrong.append(f'tests.yml: {name} is not in docs/metrics.md')
    for name in seen:
        if outcomes.get(name) != {True, False}:
            wrong.append(f'tests.yml: {name} is not tried both ways, firing and silent')
    wrong += [f'tests.yml: there is no alert {name}' for name in outcomes if name not in seen]
    return wrong


def run_promtool(top):
    wrong = []
    for what in (['check', 'rules', 'alerts.yml'], ['check', 'config', 'prometheus.yml'],
                 ['test', 'rules', 'tests.yml']):
        r = subprocess.run(['promtool', *what], cwd=f'{top}/contrib/prometheus', capture_output=True,
                           text=True, timeout=120, check=False)
        if r.returncode:
            wrong.append(f'promtool {" ".join(what)}:\n{r.stdout}{r.stderr}')
    return wrong


def overlap(a, b):
    return (a['x'] < b['x'] + b['w'] and b['x'] < a['x'] + a['w']
            and a['y'] < b['y'] + b['h'] and b['y'] < a['y'] + a['h'])


def check_dashboard(top, has):
    path = 'contrib/grafana/attest-relay.json'
    with open(f'{top}/{path}', encoding='utf-8') as f:
        board = json.load(f)
    panels, wrong = board['panels'], []
    ids = [p['id'] for p in panels]
    if len(set(ids)) != len(ids):
        wrong.append(f'{path}: two panels have one id')
    variables = {v['name']: v for v in board['templating']['list']}
    if variables.get('datasource', {}).get('type') != 'datasource':
        wrong.append(f'{path}: no variable for the data source')
    titles, asked = set(), set()
    for i, p in enumerate(panels):
        where = f'{path}: panel {p["id"]} "{p.get("title", "")}"'
        wrong += [f'{where}: overlaps {q["title"]}' for q in panels[:i]
                  if overlap(p['gridPos'], q['gridPos'])]
        if not p.get('title') or p['title'] in titles:
            wrong.append(f'{where}: no title, or one there is already')
        titles.add(p.get('title'))
        if p['type'] == 'row':
            continue
        if not p.get('description'):
            wrong.append(f'{where}: no description')
        if not p['targets']:
            wrong.append(f'{where}: asks nothing')
        for x in [p, *p['targets']]:
            if x.get('datasource', {}).get('uid') != '${datasource}':
                wrong.append(f'{where}: not of the data source that is chosen')
        for t in p['targets']:
            # a variable in a selector is any of its values
            asked |= set(OURS.findall(t['expr']))
            wrong += check_expression(where, t['expr'], has)
            for name in re.findall(r'\$(\w+)', t['expr']):
                if name not in variables and not name.startswith('__'):
                    wrong.append(f'{where}: there is no variable {name}')
    for v in variables.values():
        for name in OURS.findall(str(v.get('query', ''))):
            if base_of(name, has) not in has:
                wrong.append(f'{path}: variable {v["name"]}: {name} is not in docs/metrics.md')
    if len(asked) < 40:
        wrong.append(f'{path}: it asks for {len(asked)} metrics only: does this test still understand it?')
    return wrong


def main():
    top, = sys.argv[1:]
    has = documented(top)
    if len(has) < 100:
        sys.exit('docs/metrics.md: no table of metrics found: does this test still understand it?')
    wrong = check_alerts(top, has) + check_dashboard(top, has)
    promtool = shutil.which('promtool')
    if promtool:
        wrong += run_promtool(top)
    elif os.environ.get('CI') == 'true':
        wrong.append('promtool is not installed')
    print('\n'.join(wrong) or f'{len(has)} metrics, the alerts and the dashboard agree')
    if wrong:
        return 1
    return 0 if promtool else 77


if __name__ == '__main__':
    sys.exit(main())
