#!/bin/bash
# Starts Celery workers from the project's root, a process for each queue's slots:
#
#   scripts/start_celery_worker.sh                all three: high, default and low
#   scripts/start_celery_worker.sh high           one of them; several names start several
#
# HIGH_SLOTS (1), DEFAULT_SLOTS (2) and LOW_SLOTS (1) are the jobs that each runs at once. SIGTERM and
# Ctrl-C stop them softly: jobs get DEPLOY_GRACE_SECONDS to finish and are handed back after that.
# When one of several ends by itself, the others are stopped too, so that whoever started the script
# sees it. `beat` is a name as well; scripts/start_celery.sh uses it.
set -eu
cd "$(dirname -- "$0")/.."
umask 077

celery=${SLUICE_VENV:-.venv}/bin/celery
if [[ ! -x $celery ]] && ! celery=$(command -v celery); then
    echo "start_celery_worker.sh: there is no .venv/bin/celery; run scripts/up or scripts/test once" >&2
    exit 2
fi

become() {
    case $1 in
        high) exec "$celery" -A celery_app worker -Q high_priority -c "${HIGH_SLOTS:-1}" -n high@%h ;;
        default) exec "$celery" -A celery_app worker -Q high_priority,default -c "${DEFAULT_SLOTS:-2}" -n default@%h ;;
        low) exec "$celery" -A celery_app worker -Q low_priority -c "${LOW_SLOTS:-1}" -n low@%h ;;
        beat) exec "$celery" -A celery_app beat ;;
        *)
            echo "start_celery_worker.sh: $1 is none of high, default, low, all" >&2
            exit 2
            ;;
    esac
}

if [[ ${1:-all} == all ]]; then
    set -- high default low "${@:2}"
fi
if (($# == 1)); then
    become "$1"
fi

set -m # a process group for each, so that Ctrl-C reaches them through the trap alone, once
pids=()
asked=
for name in "$@"; do
    become "$name" &
    pids+=($!)
done
trap 'asked=yes; kill -TERM "${pids[@]}" 2> /dev/null || true' TERM INT

wait -n || true # until a signal comes or one of them ends
status=0
if [[ -z $asked ]]; then
    echo "start_celery_worker.sh: one of $* has ended; stopping the others" >&2
    kill -TERM "${pids[@]}" 2> /dev/null || true
    status=1
fi
# A worker ends before this, whatever hangs.
grace=${DEPLOY_GRACE_SECONDS:-20}
(
    sleep $((${grace%.*} + 20))
    for pid in "${pids[@]}"; do
        kill -KILL -- "-$pid" 2> /dev/null || true
    done
) &
last_resort=$!
for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2> /dev/null; do
        wait "$pid" || true
    done
done
kill -TERM -- "-$last_resort" 2> /dev/null || true
exit "$status"
