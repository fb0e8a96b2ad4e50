#!/usr/bin/python3
"""Holds what `meson install` puts where to a list, and to the prefix that was asked for.

Usage: check_install.py TOP LIST, with ATTEST_RELAY in a release build (plain_build.py)

What is installed, below the prefix, is what LIST says, with '*' for what comes and goes in a folder: no more
(a test's helper), no less. Programs and
scripts can be executed, nothing else can; nobody but root may write. What is installed names this prefix,
and neither Debian's nor the folders it was built in. With other folders asked for, each file goes there.
Prints each fault; exits 1 if there is one.
"""
import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile

EXECUTABLE = re.compile(r'bin/[\w-]+|share/doc/attest-relay/examples/libvirt/hook')
ASKED = {   # option: (its value, what goes there)
    'prefix': ('/opt/x', None),
    'bindir': ('/opt/x/programs', r'attest-relay|attest-tunnel|qgs-bridge|attestctl'),
    'mandir': ('/opt/x/manual', r'.*\.[158]'),
    'systemd_system_unit_dir': ('/opt/system-units', r'(attest|qgs)[\w@-]+\.(service|socket)'),
    'systemd_user_unit_dir': ('/opt/user-units', r'attest-tunnel\.(service|socket)'),
    'sysusers_dir': ('/opt/users', r'(attest-relay|attest-tunnel|qgs-bridge)\.conf'),
    'tmpfiles_dir': ('/opt/folders', r'(attest-relay|attest-tunnel|qgs-bridge)\.conf'),
    'bash_completion_dir': ('/opt/completions', r'attest-relay|attest-tunnel|qgs-bridge|attestctl'),
    'datadir': ('/opt/x/data', r'doc/attest-relay/.*'),
}


def call(*argv):
    run = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f'{run.stdout[-2000:]}{run.stderr[-2000:]}\n{" ".join(argv)} ended with {run.returncode}')
    return run.stdout


def files_below(folder):
    return sorted(os.path.relpath(os.path.join(where, name), folder)
                  for where, _, names in os.walk(folder) for name in names)


def check_installed(top, build, wanted):
    options = {x['name']: x['value'] for x in json.loads(
        call('meson', 'introspect', '--buildoptions', build))}
    prefix = options['prefix']
    with tempfile.TemporaryDirectory() as folder:
        call('meson', 'install', '-C', build, '--no-rebuild', '--destdir', folder)
        root = folder + prefix
        found = files_below(root)
        if len(found) != len(files_below(folder)):
            yield f'{set(files_below(folder)) - {prefix[1:] + "/" + x for x in found}}: not below {prefix}'
        for name in found:
            if not any(fnmatch.fnmatchcase(name, x) for x in wanted):
                yield f'{name} is installed, and not in the list'
        for name in ('attest-relay', 'attest-tunnel', 'qgs-bridge'):
            where = os.path.join(prefix, options['sysconfdir'], name)
            if not os.path.isdir(folder + where):
                yield f'there is no folder {where} for configs'
        for name in wanted:
            if not fnmatch.filter(found, name):
                yield f'{name} is in the list, and not installed'
        for name in found:
            path = os.path.join(root, name)
            mode = os.stat(path).st_mode & 0o7777
            if mode != (0o755 if EXECUTABLE.fullmatch(name) else 0o644):
                yield f'{name} has mode {mode:o}'
            with open(path, 'rb') as file:
                content = file.read().decode(errors='replace')
            for where in (os.path.realpath(top), os.path.realpath(build)):
                if where in content:
                    yield f'{name} names {where}'
            if name.startswith(('lib/', 'share/man/', 'bin/')):
                for text in re.findall(r'(?<![\w.])(?:/usr/bin|/etc)/(?:attest|qgs)[\w./-]+', content):
                    yield f'{name} names {text}, which is not below {prefix}'


def check_asked(top):
    """A configuration alone says where all would go."""
    with tempfile.TemporaryDirectory() as folder:
        call('meson', 'setup', folder, top, *(f'-D{k}={v}' for k, (v, _) in ASKED.items()))
        plan = json.loads(call('meson', 'introspect', '--installed', folder))
    places = sorted(plan.values())
    for option, (where, what) in ASKED.items():
        there = [x for x in places if x.startswith(where + '/')]
        if what and not there:
            yield f'-D{option}={where}: nothing goes there'
        for path in there if what else []:
            if not re.fullmatch(what, path[len(where) + 1:]) and option != 'datadir' and \
                    not re.fullmatch(what, os.path.basename(path)):
                yield f'-D{option}={where}: {path} goes there'
    for path in places:
        if not any(path.startswith(where + '/') for where, _ in ASKED.values()):
            yield f'{path} goes where nobody asked for'


def main():
    top, listed = sys.argv[1:]
    build = os.path.dirname(os.environ['ATTEST_RELAY'])
    with open(listed, encoding='utf-8') as file:
        wanted = file.read().split()
    wrong = [*check_installed(top, build, wanted), *check_asked(top)]
    print('\n'.join(wrong) or f'{len(wanted)} files are installed as they should be')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
