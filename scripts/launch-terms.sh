#!/usr/bin/env bash
# Starts collector, optimizer, actuator, controller and load emulator on this machine, each by itself, and stops them.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: launch-terms.sh [start [--background] | stop | status]

start   a terminal for each in tmux, one more for kubectl and one to watch pods; without tmux, or with --background, all
        in the background, with a log file each
stop    ends them, as Ctrl-C in each would
status  tells which of them run

Environment: what setparms.sh sets; INFERNO_DATA_PATH (sample-data/large), INFERNO_COMMAND (inferno of .venv, else of the
path), INFERNO_COLLECTOR_ARGUMENTS (such as "--metrics labels"), INFERNO_CONTROLLER_ARGUMENTS, INFERNO_RUN_DIR
(out/run: logs), INFERNO_SESSION (inferno: the name of the tmux server).
TEXT
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export REPO_BASE="${REPO_BASE:-$(dirname "$here")}"
run_dir="${INFERNO_RUN_DIR:-$REPO_BASE/out/run}"
session="${INFERNO_SESSION:-inferno}"
components="collector optimizer actuator controller emulator"
stop_s=5

# shellcheck source=setparms.sh
. "$here/setparms.sh"
export INFERNO_DATA_PATH="${INFERNO_DATA_PATH:-$REPO_BASE/sample-data/large/}"

inferno="${INFERNO_COMMAND:-}"
if [ -z "$inferno" ]; then
    inferno="inferno"
    [ -x "$REPO_BASE/.venv/bin/inferno" ] && inferno="$REPO_BASE/.venv/bin/inferno"
fi
export INFERNO_COMMAND="$inferno"

# Prints the arguments of a component, as the walk-through types them.
arguments_of() {
    case "$1" in
        controller)
            echo "controller $INFERNO_CONTROL_PERIOD $INFERNO_CONTROL_DYNAMIC --backend http" \
                "${INFERNO_CONTROLLER_ARGUMENTS:-}"
            ;;
        collector) echo "collector ${INFERNO_COLLECTOR_ARGUMENTS:-}" ;;
        *) echo "$1" ;;
    esac
}

# A pid alone may be another process by now; with the time it was started it is not.
born='LC_ALL=C ps -o lstart= -p'
# shellcheck disable=SC2016 # for the shell that becomes the component
become='printf "%s\n%s\n" "$$" "$('"$born"' $$ | xargs)" >"$0"; exec "$@"'

# Prints the pid of a component that runs.
pid_of() {
    local pid date
    [ -f "$run_dir/$1.pid" ] || return 0
    { read -r pid && read -r date; } <"$run_dir/$1.pid" || return 0
    if [ -n "$date" ] && [ "$(eval "$born $pid" | xargs)" = "$date" ]; then echo "$pid"; fi
}

# --- in the background ------------------------------------------------------------------------------------------------

start_background() {
    local name
    for name in $components; do
        # shellcheck disable=SC2046 # the arguments are words
        nohup sh -c "$become" "$run_dir/$name.pid" "$inferno" $(arguments_of "$name") \
            >"$run_dir/$name.log" 2>&1 </dev/null &
        while [ ! -s "$run_dir/$name.pid" ]; do sleep 0.05; done
        echo "$name: process $!, log $run_dir/$name.log"
    done
}

# --- in tmux ----------------------------------------------------------------------------------------------------------

tm() { tmux -L "$session" "$@"; }

in_tmux() { command -v tmux >/dev/null && tm has-session -t "=$session" 2>/dev/null; }

# What a terminal shows: the component, and when that has ended a shell, so that its last words can be read.
terminal() {
    local name="$1"
    cd "$REPO_BASE"
    case "$name" in
        kubectl) cd "$REPO_BASE/yamls/workload" && echo "kubectl apply -f ns.yaml; kubectl apply -f dep1.yaml,dep2.yaml,dep3.yaml" ;;
        pods)
            trap : INT
            if command -v watch >/dev/null; then watch kubectl get pods -n infer; else kubectl get pods -n infer -w; fi || true
            ;;
        *)
            trap : INT
            # shellcheck disable=SC2046 # the arguments are words
            set -- $(arguments_of "$name")
            echo "\$ inferno $*"
            sh -c "$become" "$run_dir/$name.pid" "$inferno" "$@" || echo "$name: exit code $?"
            ;;
    esac
    trap - INT
    exec "${SHELL:-/bin/sh}"
}

colours_of() {
    case "$1" in
        collector) echo "fg=black,bg=#90ee90" ;;
        optimizer) echo "fg=white,bg=#b22222" ;;
        actuator) echo "fg=#7fffd4,bg=#00008b" ;;
        controller) echo "fg=black,bg=#ffff99" ;;
        emulator) echo "fg=black,bg=#ffa500" ;;
        kubectl) echo "fg=#ffff99,bg=#006400" ;;
        pods) echo "fg=#b22222,bg=#f5f5dc" ;;
    esac
}

start_tmux() {
    local name pane first=yes
    for name in $components kubectl pods; do
        if [ "$first" = yes ]; then
            pane="$(tm -f /dev/null new-session -d -s "$session" -x 220 -y 60 -P -F '#{pane_id}' "'$here/launch-terms.sh' terminal $name")"
            tm set-option -g pane-border-status top
            tm set-option -g pane-border-format ' #{pane_title} '
            tm set-option -g mouse on
            first=no
        else
            pane="$(tm split-window -t "=$session:" -P -F '#{pane_id}' "'$here/launch-terms.sh' terminal $name")"
        fi
        tm select-pane -t "$pane" -T "$name" -P "$(colours_of "$name")"
        tm select-layout -t "=$session:" tiled >/dev/null
    done
    echo "tmux -L $session attach    (a terminal for each; leave with Ctrl-b d)"
}

# --- commands ---------------------------------------------------------------------------------------------------------

running() {
    local name
    in_tmux && return 0
    for name in $components; do
        [ -n "$(pid_of "$name")" ] && return 0
    done
    return 1
}

start() {
    if running; then
        echo "launch-terms.sh: running already; first: $0 stop" >&2
        exit 1
    fi
    mkdir -p "$run_dir"
    rm -f "$run_dir"/*.pid
    if [ "${1:-}" != "--background" ] && command -v tmux >/dev/null; then
        start_tmux
        if [ -t 0 ] && [ -t 1 ] && [ -z "${TMUX:-}" ]; then tm attach; fi
    else
        start_background
    fi
}

stop() {
    local name pid left=$((stop_s * 10))
    running || { echo "nothing runs"; return 0; }
    for name in $components; do
        pid="$(pid_of "$name")"
        if [ -n "$pid" ]; then kill -TERM "$pid" 2>/dev/null || true; fi
    done
    for name in $components; do
        while [ -n "$(pid_of "$name")" ] && [ "$left" -gt 0 ]; do
            sleep 0.1
            left=$((left - 1))
        done
        pid="$(pid_of "$name")"
        if [ -n "$pid" ]; then
            echo "$name: did not end in $stop_s s, killed" >&2
            kill -KILL "$pid" 2>/dev/null || true
        fi
        rm -f "$run_dir/$name.pid"
    done
    if in_tmux; then tm kill-session -t "=$session"; fi
    echo "stopped"
}

status() {
    local name pid
    for name in $components; do
        pid="$(pid_of "$name")"
        if [ -n "$pid" ]; then echo "$name: process $pid"; else echo "$name: does not run"; fi
    done
}

case "${1:-start}" in
    start) start "${2:-}" ;;
    stop) stop ;;
    status) status ;;
    terminal) terminal "$2" ;;
    -h | --help) usage ;;
    *)
        usage >&2
        exit 2
        ;;
esac
