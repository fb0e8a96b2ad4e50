#!/usr/bin/python3
"""Checks the manual pages by mandoc, and against what the programs say of themselves.

Usage: check_man.py TOP PROGRAM...

mandoc has no warning about any page; a page's title is its file's name as installed, and what it refers
to of ours is there. For each program: the options of --help are those of its page and the other way
round, short ones included; so are its sub-commands; the exit statuses it gives are those in the page.
Prints each difference; exits 1 if there is one. Without mandoc it is skipped, unless CI=true.
"""
import glob
import os
import re
import shutil
import subprocess
import sys

SKIP = 77
PAGES = {'attest-relay': 'relay/attest-relay.8', 'attest-tunnel': 'tunnel/attest-tunnel.1',
         'qgs-bridge': 'qgs-bridge/qgs-bridge.8', 'attestctl': 'attestctl/attestctl.1'}
RENAMED = {'relay.yaml.5': 'attest-relay.yaml.5', 'tunnel.yaml.5': 'attest-tunnel.yaml.5'}
# Exit statuses that are easily had; those that take a peer are in the end-to-end tests.
CALLS = [(['--help'], 0), (['--version'], 0), (['--no-such-option'], 2),
         (['--config', '/nonexistent/file', '--check-config'], 1)]
STATUSES = {'attest-relay': {'0', '1', '2'}, 'attest-tunnel': {'0', '1', '2', '3'},
            'qgs-bridge': {'0', '1', '2'}, 'attestctl': {'0', '1', '2', '3'}}


def read(path):
    with open(path, encoding='utf-8') as file:
        return file.read()


def installed_name(path):
    base = os.path.basename(path)
    return RENAMED.get(base, base)


def check_page(path, known):
    run = subprocess.run(['mandoc', '-T', 'lint', '-W', 'warning', path], capture_output=True,
                         text=True, check=False)
    wrong = [line for line in (run.stdout + run.stderr).splitlines() if 'outdated mandoc.db' not in line]
    if run.returncode and not wrong:
        wrong.append(f'{path}: mandoc ends with {run.returncode}')
    text = read(path)
    name, number = installed_name(path).rsplit('.', 1)
    if f'.Dt {name.upper()} {number}\n' not in text:
        wrong.append(f'{path}: its title is not "{name.upper()} {number}"')
    for name, number in re.findall(r'^\.Xr (attest\S*|qgs\S*) (\d)', text, re.M):
        if f'{name}.{number}' not in known:
            wrong.append(f'{path}: refers to {name}({number}), which is not there')
    return wrong


def options_of_help(text):
    """{long: short or ''}"""
    found = re.findall(r'^\s+(?:-(\w), )?\s*(--[a-z][a-z-]*)', text, re.M)
    return {long: short for short, long in found}


def options_of_page(text):
    """The items that describe an option: Fl c , Fl -config Ar file"""
    found = {}
    for line in re.findall(r'^\.It (Fl .*)$', text, re.M):
        words = re.findall(r'\bFl (-?[\w-]+)', line)
        long = [word for word in words if word.startswith('-')]
        short = [word for word in words if not word.startswith('-')]
        if long:
            found['-' + long[0]] = short[0] if short else ''
    return found


def differences(name, page, what, has, told):
    wrong = [] if has else [f'{name}: found no {what} in --help']
    for one in sorted(has.keys() - told.keys()):
        wrong.append(f'{page}: {what} {one} of --help is not there')
    for one in sorted(told.keys() - has.keys()):
        wrong.append(f'{page}: {what} {one} is not in --help')
    for one in sorted(has.keys() & told.keys()):
        if has[one] != told[one]:
            wrong.append(f'{page}: {what} {one} is short for "{told[one]}", in --help "{has[one]}"')
    return wrong


def check_program(program, top):
    name = os.path.basename(program)
    page = f'{top}/{PAGES[name]}'
    text = read(page)
    shown = subprocess.run([program, '--help'], capture_output=True, text=True, check=True).stdout
    wrong = differences(name, page, 'option', options_of_help(shown), options_of_page(text))
    calls = dict.fromkeys(re.findall(rf'{name} ([a-z]+ [a-z]+)\b', ''.join(
        line for line in shown.splitlines(True) if re.match(r'(Usage:)?\s+' + name, line))), '')
    told = dict.fromkeys(re.findall(r'^\.It Nm Cm (\w+ \w+)', text, re.M), '')
    if calls or told:
        wrong += differences(name, page, 'command', calls, told)
    section = re.search(r'^\.Sh EXIT STATUS\n(.*?)^\.Sh', text, re.M | re.S)
    listed = set(re.findall(r'^\.It (\d+)$', section[1], re.M)) if section else set()
    if listed != STATUSES[name]:
        wrong.append(f'{page}: lists the exit statuses {sorted(listed)}, not {sorted(STATUSES[name])}')
    for arguments, expected in CALLS if name != 'attestctl' else CALLS[:3]:
        run = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        if run.returncode != expected:
            wrong.append(f'{name} {" ".join(arguments)} ends with {run.returncode}, not {expected}')
        if str(run.returncode) not in listed:
            wrong.append(f'{page}: exit status {run.returncode} is not listed')
    return wrong


def main():
    top, *programs = sys.argv[1:]
    if not shutil.which('mandoc'):
        print('mandoc is not installed (contrib/install-packages test)')
        return 1 if os.environ.get('CI') == 'true' else SKIP
    pages = sorted(path for folder in ('config', 'relay', 'tunnel', 'qgs-bridge', 'attestctl')
                   for path in glob.glob(f'{top}/{folder}/*.[1-8]'))
    known = {installed_name(path) for path in pages}
    wrong = [f'{path} is not there' for path in PAGES.values() if f'{top}/{path}' not in pages]
    for path in pages:
        wrong += check_page(path, known)
    for program in programs:
        wrong += check_program(program, top)
    print('\n'.join(wrong) or f'{len(pages)} manual pages are in order')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
