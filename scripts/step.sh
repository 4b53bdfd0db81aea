#!/usr/bin/env bash
# step.sh TITLE COMMAND...: say what is done, do it, say how long it took. Fails as COMMAND does.
set -uo pipefail
title=$1
shift
echo "--- $title"
SECONDS=0
"$@"
status=$?
echo "--- $title: ${SECONDS} s$([ $status -eq 0 ] || echo ", failed with status $status")"
exit $status
