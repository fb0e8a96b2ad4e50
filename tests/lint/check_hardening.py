#!/usr/bin/python3
"""Looks into the programs for what the compiler and the linker were to put there.

Usage: check_hardening.py, with ATTEST_RELAY, ATTEST_TUNNEL and ATTEST_BRIDGE (plain_build.py)

Position independent, relocations read-only before the program starts, no stack that can be executed, no
way to libraries of its own; guarded stacks, probed a page at a time; checked copies; marks for indirect
jumps and a shadow stack, in all objects where the system's have them. Each
check has to fail on a program that is built without: else it says nothing. Prints each fault; exits 1
if there is one.
"""
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile

SKIP = 77
HARDENED = ['-O2', '-fcf-protection=full']
BARE = ['-O2', '-no-pie', '-fno-pie', '-fno-stack-protector', '-fcf-protection=none', '-U_FORTIFY_SOURCE',
        '-fno-stack-clash-protection', '-Wl,-z,norelro', '-Wl,-z,lazy', '-Wl,-z,execstack',
        '-Wl,-rpath,/nowhere']
PROBE = r'''
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv)
{
    char page[65536], text[64];
    snprintf(page, sizeof(page), "%s", argv[0]);
    strcpy(text, argv[argc - 1]);
    return puts(page) + puts(text);
}
'''


def output(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True,
                          env={**os.environ, 'LC_ALL': 'C'}).stdout


def parts(program):
    return {'header': output('readelf', '-hlW', program), 'dynamic': output('readelf', '-dW', program),
            'symbols': output('readelf', '--dyn-syms', '-W', program),
            'notes': output('readelf', '-nW', program),
            'code': output('objdump', '-d', '--no-show-raw-insn', program)}


def has(pattern, text):
    return re.search(pattern, text) is not None


CHECKS = {
    'is position independent': lambda p: has(r'Type:\s+DYN', p['header'])
    and has(r'FLAGS_1.*\bPIE\b', p['dynamic']),
    'has read-only relocations': lambda p: 'GNU_RELRO' in p['header'],
    'is bound at its start': lambda p: has(r'\(FLAGS\).*BIND_NOW|FLAGS_1.*\bNOW\b', p['dynamic']),
    'has no executable stack': lambda p: has(r'GNU_STACK.* RW +0x', p['header']),
    'has no path to libraries': lambda p: not has(r'\((RPATH|RUNPATH|TEXTREL)\)', p['dynamic']),
    'guards its stacks': lambda p: '__stack_chk_fail' in p['symbols'],
    'checks what it copies': lambda p: has(r'__(?!stack)\w+_chk\b', p['symbols']),
}
ON_X86 = {
    'marks its functions for indirect jumps': lambda p: has(r'<main>:\n[^\n]*\bendbr64\b', p['code']),
    'probes its stacks': lambda p: has(r'orq? +\$0x0,(0x[0-9a-f]+)?\(%rsp', p['code']),
}
# Only if the C library's start-up objects have them too: the linker wants them of all.
CONTROL_FLOW = {
    'marks where jumps may lead': lambda p: has(r'x86 feature:.*\bIBT\b', p['notes']),
    'has a shadow stack': lambda p: has(r'x86 feature:.*\bSHSTK\b', p['notes']),
}


def compile_probe(folder, name, flags):
    """None: this compiler cannot."""
    path = os.path.join(folder, name)
    run = subprocess.run(['cc', '-x', 'c', '-', '-w', '-o', path, *flags], input=PROBE, text=True,
                         capture_output=True, check=False)
    return parts(path) if run.returncode == 0 else None


def checks_for(hardened):
    """Those that this compiler can pass."""
    checks = dict(CHECKS)
    if platform.machine() == 'x86_64':
        checks.update(ON_X86)
        checks.update({k: v for k, v in CONTROL_FLOW.items() if hardened and v(hardened)})
    return checks


def main():
    missing = [x for x in ('readelf', 'objdump', 'cc') if not shutil.which(x)]
    if missing:
        print(f'not installed: {", ".join(missing)}')
        return 1 if os.environ.get('CI') == 'true' else SKIP
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        checks = checks_for(compile_probe(folder, 'hardened', HARDENED))
        bare = compile_probe(folder, 'bare', BARE)
    if bare is None:
        sys.exit('cannot build a program without protection, so the checks prove nothing')
    wrong += [f'the check that a program {what} passes on one that is not so'
              for what, check in checks.items() if check(bare)]
    programs = [os.environ[x] for x in ('ATTEST_RELAY', 'ATTEST_TUNNEL', 'ATTEST_BRIDGE')]
    for program in programs:
        found = parts(program)
        wrong += [f'{program}: not so: it {what}' for what, check in checks.items() if not check(found)]
    print('\n'.join(wrong) or f'{len(programs)} programs are hardened, each by {len(checks)} checks:\n  '
          + '\n  '.join(checks))
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
