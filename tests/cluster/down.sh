#!/bin/bash
# Stop the cluster in $CLUSTER_DIR and all that its jobs left running.  The directory stays, with the logs.
# Also fit for the remains of a killed test run: nothing is signalled that is not certainly of this cluster.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
R=${CLUSTER_DIR:?}
PATH=$PATH:/usr/sbin:/sbin
export SLURM_CONF=$R/etc/slurm.conf
[ -s "$R/etc/node.env" ] || exit 0
# shellcheck source=/dev/null
. "$R/etc/node.env"

alive() { # pid: a zombie counts as gone, for process 1 of a bare container does not reap
  case "$(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null)" in '' | Z) return 1;; esac
}

ours() { # pid: a Slurm or MUNGE daemon that has a path of this cluster in its arguments
  case "$(cat "/proc/$1/comm" 2>/dev/null)" in munged | slurmctld | slurmd) ;; *) return 1;; esac
  tr '\0' ' ' < "/proc/$1/cmdline" 2>/dev/null | grep -qF -- "$R/"
}

stop() { # pid file: SIGTERM, after 10 s SIGKILL
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 0
  if ours "$pid"; then
    kill "$pid" 2>/dev/null
    for _ in {1..200}; do alive "$pid" || break; sleep 0.05; done
    ! ours "$pid" || kill -KILL "$pid" 2>/dev/null
  fi
  rm -f "$1"
}

if [ "$UTS" = 0 ] && scontrol ping >/dev/null 2>&1; then
  # The jobs' processes cannot be told from others without their name space: let Slurm end them.
  scancel --user="$(id -un)" >/dev/null 2>&1
  for _ in {1..100}; do [ -n "$(squeue -h 2>/dev/null)" ] || break; sleep 0.1; done
fi
stop "$R/run/slurmctld.pid"
for hosts in "$R"/etc/hosts.*; do
  node=${hosts##*/hosts.}
  stop "$R/run/slurmd.$node.pid"
  [ "$UTS" = 0 ] || "$here/node.sh" kill "$node"
done
stop "$R/run/munged.pid"
