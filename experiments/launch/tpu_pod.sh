#!/usr/bin/env bash
# Trains on all hosts of a TPU pod slice; there the processes find each other.
# usage: experiments/launch/tpu_pod.sh NAME ZONE OPTIONS of python -m experiments.train
#
# On every host $DIR is the repository, from the home folder on (default: ksam_jax), and
# $PYTHON its Python (default: python3). Ctrl-C here doesn't stop them: docs/launch.md.
set -euo pipefail

if (($# < 2)) || [[ $1 == -* || $2 == -* ]]; then
    sed -n '3s/^# //p' "$0" >&2
    exit 2
fi
name=$1 zone=$2
shift 2

# Another shell reads it over there, so each word is quoted once more.
command=$(printf '%q ' "${PYTHON:-python3}" -m experiments.train "$@")
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd $(printf '%q' "${DIR:-ksam_jax}") && exec $command"
