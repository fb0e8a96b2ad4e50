# What the checks in a VM share. Sourced; the shell is busybox's.
# shellcheck shell=sh
logs=/run/log
pids=/run/pid
mkdir -p "$logs" "$pids"
failed=''

uptime_seconds() { cut -d. -f1 /proc/uptime; }
uptime_now() { cut -d' ' -f1 /proc/uptime; }
since() { awk "BEGIN { printf \"%.1f\", $(uptime_now) - $1 }"; }

# check NAME: runs the function of this name (check_ and _ for -) and says how it went. Its last
# line is the reason when it fails, and all its lines are shown.
check() {
    began=$(uptime_now)
    ( set -e; "check_$(echo "$1" | tr - _)" ) >/run/said 2>&1
    code=$?
    spent=$(since "$began")
    if [ $code -eq 0 ]; then
        echo "ok $1 ($spent s)"
    else
        echo "not ok $1: $(tail -n 1 /run/said) (exit $code, $spent s)"
        failed=yes
    fi
    sed 's/^/# /' /run/said
}

# end: the logs if a check has failed; the last line
end() {
    if [ -n "$failed" ]; then
        for log in "$logs"/*; do
            echo "# ---- ${log##*/}, its end:"
            tail -n 40 "$log" | sed 's/^/# /'
        done
    fi
    echo end
}

# fail WHY
fail() {
    echo "$1"
    exit 1
}

# start NAME PROGRAM...: in the background; the log goes on when it is started again
start() {
    name=$1
    shift
    "$@" >>"$logs/$name" 2>&1 &
    echo $! >"$pids/$name"
}

pid_of() { cat "$pids/$1"; }

# until_true WHAT COMMAND...: within 30 s
until_true() {
    what=$1
    shift
    last=$(($(uptime_seconds) + 30))
    until "$@" >/dev/null 2>&1; do
        [ "$(uptime_seconds)" -lt $last ] || fail "not within 30 s: $what"
        sleep 0.1
    done
}

# logged NAME PATTERN [TIMES]: in the log of a program, at least so often
logged() { [ "$(grep -c -e "$2" "$logs/$1")" -ge "${3:-1}" ]; }

# gone NAME, or PID: the process has ended
gone() { ! kill -0 "$(pid_of "$1" 2>/dev/null || echo "$1")" 2>/dev/null; }

# refused ADDRESS: nobody listens there
refused() { [ "$(vm-peer connects "$1")" = ECONNRESET ]; }

# expect WHAT IS: two words that are to be the same
expect() { [ "$1" = "$2" ] || fail "expected $2, got $1"; }

# number WORD: of the line "... WORD=N ..." on standard input
number() { sed -n "s/.*\\b$1=\\([0-9]*\\).*/\\1/p"; }
