#!/usr/bin/python3
"""Holds the systemd units to what systemd itself thinks of them, and to what the programs need.

Usage: check_units.py TOP

By `systemd-analyze security`, which adds up what a unit leaves open from 0 to 10, each is at most
EXPOSURE ("OK" is below 5); a unit that says nothing is far above it, so the measure works. Each lets
the program enter its sandbox and use the address families it has; so does the users' unit. All units,
sockets, the users' too, the instances of relay and agent, and the examples pass `systemd-analyze
verify`; one with a fault does not.
A service and a socket wait for the same config. Prints each fault; exits 1 if there is one. Without
systemd-analyze it is skipped, unless CI=true.
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

SKIP = 77
EXPOSURE = {'attest-relay': 2.5, 'attest-tunnel': 2.3, 'qgs-bridge': 3.5}
NEEDED_CALLS = {'landlock_create_ruleset', 'landlock_add_rule', 'landlock_restrict_self', 'seccomp'}
FAMILIES = {'AF_INET', 'AF_INET6', 'AF_UNIX', 'AF_VSOCK', 'AF_NETLINK'}
BARE = '[Service]\nExecStart=/bin/true\n'


def exposure(path):
    run = subprocess.run(['systemd-analyze', 'security', '--offline=true', '--no-pager', path],
                         capture_output=True, text=True, check=False)
    found = re.search(r'Overall exposure level for \S+: ([\d.]+)', run.stdout)
    if not found:
        sys.exit(f'systemd-analyze says nothing of {path}: {run.stdout[-500:]}{run.stderr[-500:]}')
    return float(found[1]), '\n'.join(x for x in run.stderr.splitlines() if path in x)


def settings(path):
    """{key: [value, ...]}"""
    found = {}
    with open(path, encoding='utf-8') as file:
        for key, value in re.findall(r'^(\w+)=(.*)$', file.read(), re.M):
            found.setdefault(key, []).append(value)
    return found


def check(path):
    name = os.path.basename(path).removesuffix('.service')
    level, said = exposure(path)
    if level > EXPOSURE[name]:
        yield f'{path}: its exposure is {level}; {EXPOSURE[name]} at most'
    if said:
        yield f'{path}: {said}'
    yield from needs(path)


def needs(path):
    """What the sandbox and the sockets of a program need"""
    has = settings(path)
    calls = set(' '.join(x for x in has.get('SystemCallFilter', []) if x[:1] != '~').split())
    for call in sorted(NEEDED_CALLS - calls):
        yield f'{path}: SystemCallFilter= has no {call}: the program cannot enter its sandbox'
    families = set(' '.join(has.get('RestrictAddressFamilies', [])).split())
    if families != FAMILIES:
        yield f'{path}: RestrictAddressFamilies= differs in {" ".join(sorted(families ^ FAMILIES))}'


def verify(paths, user=False):
    """What systemd says of units, in a process of its own; programs need not be there."""
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for path in paths:
            with open(path, encoding='utf-8') as file:
                text = re.sub(r'/usr/bin/(attest-\w+|qgs-bridge)', '/bin/true', file.read())
            copies.append(os.path.join(folder, os.path.basename(path)))
            with open(copies[-1], 'w', encoding='utf-8') as file:
                file.write(text)
        run = subprocess.run(['systemd-analyze', *(['--user'] if user else []), 'verify', '--man=no',
                              *copies], capture_output=True, text=True, check=False,
                             env={**os.environ, 'XDG_RUNTIME_DIR': folder})
        ours = [x for x in (run.stdout + run.stderr).splitlines()
                if any(os.path.basename(y) in x for y in copies)]
        if run.returncode and not ours:
            ours.append(f'systemd-analyze verify ends with {run.returncode}: {run.stderr[-300:]}')
        return ours


def check_all(top):
    services = sorted(glob.glob(f'{top}/packaging/*.service'))
    sockets = sorted(glob.glob(f'{top}/packaging/*.socket'))
    examples = sorted(glob.glob(f'{top}/packaging/examples/*.socket'))
    users = f'{top}/packaging/user/attest-tunnel.service'
    users_socket = users.replace('.service', '.socket')
    with tempfile.TemporaryDirectory() as folder:
        instance = os.path.join(folder, 'attest-tunnel@x.service')
        with open(instance, 'w', encoding='utf-8') as file:
            subprocess.run(['sed', '-E', '-f', f'{top}/packaging/instance.sed',
                            f'{top}/packaging/attest-tunnel.service'], stdout=file, check=True)
        wanted = settings(instance)
        if '/attest-tunnel/%i.yaml' not in ''.join(wanted['ExecStart']) or \
                wanted['RuntimeDirectory'] != ['attest-tunnel-%i']:
            yield f'{instance}: nothing in it is its own'
        another = os.path.join(folder, 'attest-relay@x.service')
        shutil.copy(f'{top}/packaging/attest-relay.service', another)
        yield from verify([*services, *sockets, *examples, instance, another])
        broken = os.path.join(folder, 'broken.service')
        with open(broken, 'w', encoding='utf-8') as file:
            file.write(BARE + 'ProtectSystem=stricter\n')
        if not verify([broken]):
            yield 'systemd-analyze verify finds no fault in a unit that has one'
    yield from verify([users, users_socket], user=True)
    yield from needs(users)
    for path in [*sockets, users_socket]:
        service = settings(path.removesuffix('.socket') + '.service')
        if settings(path)['ConditionPathExists'] != service['ConditionPathExists']:
            yield f'{path}: waits for another config than its service'


def main():
    top, = sys.argv[1:]
    if not shutil.which('systemd-analyze'):
        print('systemd-analyze is not installed')
        return 1 if os.environ.get('CI') == 'true' else SKIP
    units = sorted(glob.glob(f'{top}/packaging/*.service'))
    wrong = [text for path in units for text in check(path)] + list(check_all(top))
    if len(units) != len(EXPOSURE):
        wrong.append(f'{len(units)} units found, not {len(EXPOSURE)}')
    with tempfile.TemporaryDirectory() as folder:
        bare = os.path.join(folder, 'bare.service')
        with open(bare, 'w', encoding='utf-8') as file:
            file.write(BARE)
        if exposure(bare)[0] < 9:
            wrong.append('a unit that says nothing is not exposed, says systemd-analyze')
    print('\n'.join(wrong) or f'{len(units)} units are in order')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
