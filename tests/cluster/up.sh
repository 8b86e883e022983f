#!/bin/bash
# Start a real Slurm cluster of several nodes on this one machine: without systemd, without a database,
# as root or as an ordinary user.  Everything lives in $CLUSTER_DIR and listens on 127.0.0.1 only.
# The knobs are environment variables:
#   CLUSTER_DIR   where it lives; short (sockets lie in it) and free of blanks        (no default)
#   PORT0         the first of the 256 TCP ports it uses                              (12288)
#   NNODES CPUS MEM_MB GPUS GPU_TYPE    what each node claims to have                 (4 4 64000 2 a100)
#   GRACE         GraceTime of the preemptible partition, seconds                     (20)
#   KILLWAIT      seconds between SIGTERM and SIGKILL                                 (5)
#   CRED_EXPIRE   a requeued job waits this + 1 s; below 5 Slurm silently takes 120   (5)
#   USER_SIGNAL   1 = preempt_send_user_signal                                        (0, as on most sites)
#   UTS           1 = every node has its own host name; needs unshare                 (1 where it works)
#   EXTRA_CONF    lines for the end of slurm.conf
set -euo pipefail
umask 022
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
R=${CLUSTER_DIR:?}
PORT0=${PORT0:-12288} NNODES=${NNODES:-4} CPUS=${CPUS:-4} MEM_MB=${MEM_MB:-64000}
GPUS=${GPUS:-2} GPU_TYPE=${GPU_TYPE:-a100} GRACE=${GRACE:-20} KILLWAIT=${KILLWAIT:-5}
CRED_EXPIRE=${CRED_EXPIRE:-5} USER_SIGNAL=${USER_SIGNAL:-0} EXTRA_CONF=${EXTRA_CONF:-}
me=$(id -un) host=$(hostname -s)

case $R in *[[:space:]]* | [!/]*) echo "CLUSTER_DIR must be an absolute path without blanks: $R" >&2; exit 2;; esac
# The longest socket is spool/node10/node10_<job>.<step>; the kernel allows 107 characters.
[ ${#R} -le 60 ] || { echo "CLUSTER_DIR is too long for a unix socket: $R" >&2; exit 2; }

wait_for() { # seconds command...: poll until the command succeeds
  local tries=$(($1 * 20)); shift
  for ((; tries > 0; tries--)); do "$@" >/dev/null 2>&1 && return 0; sleep 0.05; done
  echo "gave up waiting for: $*" >&2
  tail -n 20 "$R"/log/*.log >&2
  return 1
}

# --- directories; the controller starts with an empty state, so job ids start at 1
mkdir -p "$R"/{etc,run,log,spool,state,dev}
rm -rf "${R:?}"/{run,state,spool}/*
for ((i = 1; i <= NNODES; i++)); do
  mkdir -p "$R/spool/node$i"
  # One file per node: it makes node names resolve, and node.sh tells by it which process belongs to which node.
  { echo "127.0.0.1 localhost $host"; printf '127.0.0.1 node%d\n' $(seq "$NNODES"); } > "$R/etc/hosts.node$i"
done

# --- name spaces: with them `hostname` says nodeN; an ordinary user gets them from a user name space
if [ "$(id -u)" = 0 ]; then unshare="unshare -um"; else unshare="unshare -U --map-current-user --keep-caps -um"; fi
if [ -z "${UTS:-}" ]; then
  # shellcheck disable=SC2086  # the options are words
  if $unshare mount --bind "$R/etc/hosts.node1" /etc/hosts 2>/dev/null; then UTS=1; else UTS=0; fi
fi
printf 'UTS=%s\nunshare="%s"\n' "$UTS" "$unshare" > "$R/etc/node.env"

# --- GPUs: slurmd wants a device file of its own for each; links to /dev/null are, and need no root
gres=
printf 'AutoDetect=off\n' > "$R/etc/gres.conf"
if [ "$GPUS" -gt 0 ]; then
  for ((i = 0; i < GPUS; i++)); do ln -sfn /dev/null "$R/dev/nvidia$i"; done
  printf 'Name=gpu Type=%s File=%s/dev/nvidia[0-%d]\n' "$GPU_TYPE" "$R" $((GPUS - 1)) >> "$R/etc/gres.conf"
  gres="Gres=gpu:$GPU_TYPE:$GPUS"
fi

# --- slurm.conf
# config_overrides: the nodes claim more than the machine has.  The intervals of the scheduler are short
# because a test waits for it.  One address and a port per node: srun does not work with 127.0.1.N.
cat > "$R/etc/slurm.conf" <<CONF
ClusterName=testcluster
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT0
SlurmdPort=$((PORT0 + 1))
SrunPortRange=$((PORT0 + 64))-$((PORT0 + 255))
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$R/run/munge.socket,cred_expire=$CRED_EXPIRE
AccountingStorageType=accounting_storage/none
SlurmUser=$me
SlurmdUser=$me
MailProg=/bin/true
SlurmctldPidFile=$R/run/slurmctld.pid
SlurmdPidFile=$R/run/slurmd.%n.pid
SlurmctldLogFile=$R/log/slurmctld.log
SlurmdLogFile=$R/log/slurmd.%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
StateSaveLocation=$R/state
SlurmdSpoolDir=$R/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=$KILLWAIT
MinJobAge=600
InactiveLimit=0
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node[1-$NNODES] NodeAddr=127.0.0.1 Port=[$((PORT0 + 2))-$((PORT0 + 1 + NNODES))] CPUs=$CPUS Sockets=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM_MB $gres Feature=$GPU_TYPE State=UNKNOWN
PartitionName=main  Nodes=ALL   PriorityTier=10  PreemptMode=OFF MaxTime=1-0 DefaultTime=30 Default=YES
PartitionName=low   Nodes=ALL   PriorityTier=1   PreemptMode=REQUEUE GraceTime=$GRACE MaxTime=7-0 DefaultTime=30
PartitionName=high  Nodes=ALL   PriorityTier=100 PreemptMode=OFF MaxTime=12:00:00 DefaultTime=30
PartitionName=debug Nodes=node1 PriorityTier=10  PreemptMode=OFF MaxTime=30 DefaultTime=5 MaxNodes=1
CONF
if [ "$USER_SIGNAL" = 1 ]; then echo SlurmctldParameters=preempt_send_user_signal >> "$R/etc/slurm.conf"; fi
printf '%s\n' "$EXTRA_CONF" >> "$R/etc/slurm.conf"
export SLURM_CONF=$R/etc/slurm.conf

# --- daemons; each names a path of this cluster in its arguments, by which down.sh recognises it
[ -s "$R/etc/munge.key" ] || (umask 077; head -c 128 /dev/urandom > "$R/etc/munge.key")
munged --key-file="$R/etc/munge.key" --socket="$R/run/munge.socket" --pid-file="$R/run/munged.pid" \
       --log-file="$R/log/munged.log" --seed-file="$R/run/munge.seed" --num-threads=2
slurmctld -c -f "$SLURM_CONF"
wait_for 10 scontrol ping
for ((i = 1; i <= NNODES; i++)); do "$here/node.sh" start "node$i"; done
all_idle() { [ "$(sinfo -h -N -p main -t idle -o %N | wc -l)" = "$NNODES" ]; }
wait_for 30 all_idle
