#!/usr/bin/python3
"""Builds the programs as they are released, and runs a command on them.

Usage: plain_build.py TOP BUILD COMMAND...

The tests' own build has sanitizers, which need more of the system than the programs do, and none of
the flags that are for optimised code. COMMAND finds the programs by ATTEST_RELAY, ATTEST_TUNNEL and
ATTEST_BRIDGE. The build is kept in BUILD/plain; what has not changed is not built again.
"""
import fcntl
import os
import subprocess
import sys

PROGRAMS = {'ATTEST_RELAY': 'attest-relay', 'ATTEST_TUNNEL': 'attest-tunnel',
            'ATTEST_BRIDGE': 'qgs-bridge/qgs-bridge'}


def call(*argv):
    run = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, check=False)
    if run.returncode:
        sys.exit(run.stdout[-4000:] + f'\n{" ".join(argv)} ended with {run.returncode}')


def build(top, folder):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, '.lock'), 'a', encoding='utf-8') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)    # two tests may come here at a time
        if not os.path.exists(os.path.join(folder, 'build.ninja')):
            call('meson', 'setup', folder, top, '--buildtype=release')
        call('meson', 'compile', '-C', folder, 'programs')


def main():
    top, under, *command = sys.argv[1:]
    folder = os.path.join(under, 'plain')
    build(top, folder)
    for name, program in PROGRAMS.items():
        os.environ[name] = os.path.join(folder, program)
    os.execvp(command[0], command)


if __name__ == '__main__':
    main()
