#!/bin/bash
# node.sh start|stop|cut|kill nodeN     acts on one node of the cluster in $CLUSTER_DIR
#   start  start slurmd; with UTS=1 in name spaces of its own, so that its host name is nodeN
#   stop   SIGTERM to slurmd: its running steps go on, as in a restart of the service
#   cut    SIGKILL to slurmd: the controller loses the node, the processes there run on (a network partition)
#   kill   SIGKILL to slurmd, slurmstepd and every task of the node (a power loss); needs UTS=1
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
export R=${CLUSTER_DIR:?} N=$2
export SLURM_CONF=$R/etc/slurm.conf
# shellcheck source=/dev/null
. "$R/etc/node.env"

slurmd_pid() { # the pid, once it is certain that it is this node's slurmd
  local pid
  pid=$(cat "$R/run/slurmd.$N.pid") && [ "$(cat "/proc/$pid/comm")" = slurmd ]
  tr '\0' ' ' < "/proc/$pid/cmdline" | grep -qF -- "$R/" && echo "$pid"
}

processes() { # every process of the node: /etc/hosts is this node's file in no other mount name space
  local proc
  for proc in /proc/[0-9]*; do
    if [ "$proc/root/etc/hosts" -ef "$R/etc/hosts.$N" ]; then echo "${proc#/proc/}"; fi
  done 2>/dev/null
}

case $1 in
  start)
    if [ "$UTS" = 1 ]; then
      # shellcheck disable=SC2016,SC2154  # the inner shell expands; node.env sets unshare
      $unshare bash -c 'mount --bind "$R/etc/hosts.$N" /etc/hosts; hostname "$N"; exec slurmd -f "$SLURM_CONF" -N "$N"'
    else
      slurmd -f "$SLURM_CONF" -N "$N"
    fi;;
  stop) kill "$(slurmd_pid)";;
  cut) kill -KILL "$(slurmd_pid)";;
  kill)
    [ "$UTS" = 1 ] || { echo "without UTS=1 a node's processes cannot be told apart: use cut" >&2; exit 1; }
    # Twice: a process may have been born while the first round was killing.
    for _ in 1 2; do processes | xargs -r kill -KILL 2>/dev/null || true; done;;
  *) echo "unknown action: $1" >&2; exit 2;;
esac
