#!/bin/bash
# Install what the tests need from the distribution's own packages.  Quick when all is there; needs root otherwise.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

bash "$(dirname "$0")/install-apptainer.sh" || echo "the container tests will be skipped"

missing=()
command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v sbatch >/dev/null || missing+=(slurm-wlm)
command -v munged >/dev/null || missing+=(munge)
command -v shellcheck >/dev/null || missing+=(shellcheck)
# The budget report is looked at in a real browser, on the screen and on paper.
command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing+=(chromium)
command -v pdftoppm >/dev/null || missing+=(poppler-utils)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "cannot install ${missing[*]}: this takes root and apt-get; the tests that need them will be skipped"
  exit 0
fi

# The packages start their daemons with the system's configuration; the tests bring their own.
# A policy that is already there (in a container image it usually is) is left alone.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null; then
  echo "installing ${missing[*]} failed" >&2
  exit 1
fi
