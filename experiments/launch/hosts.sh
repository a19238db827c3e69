#!/usr/bin/env bash
# Trains on plain hosts: one process on each, started over ssh.
# usage: experiments/launch/hosts.sh HOST,HOST,... OPTIONS of python -m experiments.train
#
# The first host has process 0. On all of them $DIR is the repository (default: the folder
# this is started in) and $PYTHON its Python (default: python). $COORDINATOR is where process
# 0 listens, as the other hosts see it (default: the first host's name, port 7777).
#
# If one of them fails, or this program ends (Ctrl-C, SIGTERM, a lost connection, kill -9),
# the others get a SIGTERM: they save and end. The status is that of the first that failed.
set -euo pipefail

if [[ ${1:--} == -* ]]; then
    sed -n '3s/^# //p' "$0" >&2
    exit 2
fi
IFS=, read -ra hosts <<<"$1"
shift
dir=${DIR:-$PWD}
python=${PYTHON:-python}
coordinator=${COORDINATOR:-${hosts[0]##*@}:7777}

# Every ssh reads from a pipe that nobody writes to. When this program closes it, if only
# because it was killed, the hosts see their input end: ssh carries that, and no signals.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkfifo "$scratch/pipe"
exec 3<>"$scratch/pipe"
exec 4<"$scratch/pipe"
stopped=0
trap 'stopped=143; exec 3>&-' HUP INT TERM

# What the host of process $1 runs, for any POSIX shell: training, and beside it a watch for
# the end of the input.
remote() {
    printf 'cd %q || exit; exec 3<&0; ' "$dir"
    printf '%q ' "$python" -m experiments.train --coordinator "$coordinator" \
        --num-processes "${#hosts[@]}" --process-id "$1" "${@:2}"
    # shellcheck disable=SC2016 # these variables are the host's
    printf '%s; ' '</dev/null 3<&- & training=$!' \
        '(read -r end; kill -TERM "$training") <&3 >/dev/null 2>&1 & watch=$!' \
        'exec 3<&-' 'wait "$training"' 'status=$?' 'kill "$watch" 2>/dev/null' \
        'exit "$status"'
}

run_on() {
    local status=0
    # What a terminal sends to all would cut the line to the host, with its last words.
    trap '' HUP INT
    # Without BatchMode it could wait for a password, and without the other for a dead host.
    ssh -o BatchMode=yes -o ServerAliveInterval=30 "${hosts[$1]}" "$(remote "$@")" <&4 ||
        status=$?
    if ((status)); then
        # The first one's is kept.
        (set -o noclobber && echo "$status" >"$scratch/status") 2>/dev/null || true
        kill -TERM "$$"
    fi
}

for i in "${!hosts[@]}"; do
    run_on "$i" "$@" 3>&- &
done
exec 4<&-
# A signal interrupts it, once its trap has run.
until wait; do :; done
if [[ -e $scratch/status ]]; then
    stopped=$(<"$scratch/status")
fi
exit "$stopped"
