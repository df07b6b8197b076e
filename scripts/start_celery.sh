#!/bin/bash
# Starts all that works in the background, from the project's root: the workers and the scheduler.
# What scripts/start_celery_worker.sh says holds here too.
set -eu
exec "$(dirname -- "$0")/start_celery_worker.sh" all beat
