#!/usr/bin/env bash
# Creates a TPU slice, installs this checkout on every host, launches a run, and resumes it.
#
#   scripts/tpu_pod.sh create                    a slice of ACCELERATOR in ZONE
#   scripts/tpu_pod.sh install                   copies the checkout and sets it up on all hosts
#   scripts/tpu_pod.sh launch CONFIG WORKDIR     trains, and resumes; WORKDIR: gs://, or on a disk that all hosts share
#   scripts/tpu_pod.sh status                    READY, PREEMPTED, ...
#   scripts/tpu_pod.sh delete
#
# NAME, ZONE, PROJECT, ACCELERATOR (v5litepod-16, v6e-8, ...), RUNTIME and SPOT=1 come from the
# environment. Ask scripts/plan.py first whether the run fits.
set -euo pipefail

NAME="${NAME:-softbio}"
ZONE="${ZONE:-us-east5-a}"
ACCELERATOR="${ACCELERATOR:-v5litepod-16}"
RUNTIME="${RUNTIME:-v2-alpha-tpuv5-lite}"
WHERE=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})

usage() {
  sed -n '2,11s/^# \{0,1\}//p' "$0"
  exit "${1:-2}"
}

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" --worker=all --command="$1"
}

case "${1:-}" in
  create)
    gcloud compute tpus tpu-vm create "$NAME" "${WHERE[@]}" \
      --accelerator-type="$ACCELERATOR" --version="$RUNTIME" ${SPOT:+--spot}
    ;;
  install)
    archive="$(mktemp --suffix=.tar.gz)"
    trap 'rm -f "$archive"' EXIT
    git archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$NAME:softbio.tar.gz" "${WHERE[@]}" --worker=all
    on_all_hosts "mkdir -p softbio && tar -xzf softbio.tar.gz -C softbio && cd softbio && make setup ACCEL=tpu"
    ;;
  launch)
    [[ $# -ge 3 ]] || usage
    config="$2" workdir="$3"
    shift 3
    # Every host runs the same command; JAX finds the others. 75 and 76 ask to be started again.
    on_all_hosts "cd softbio && .venv-tpu/bin/python scripts/train.py --multihost \
      --config=$(printf %q "$config") --workdir=$(printf %q "$workdir") $(printf '%q ' "$@")"
    ;;
  status)
    gcloud compute tpus tpu-vm describe "$NAME" "${WHERE[@]}" --format='value(state)'
    ;;
  delete)
    gcloud compute tpus tpu-vm delete "$NAME" "${WHERE[@]}" --quiet
    ;;
  -h | --help) usage 0 ;;
  *) usage ;;
esac
