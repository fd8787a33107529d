#!/usr/bin/env bash
# Runs a command with a throw-away Slurm of one node on this machine, then stops and removes it, whatever happens:
#   tests/cluster/with_slurm.sh sbatch --wrap hostname
# munged, slurmctld and slurmd are its own, with their own key, ports and folder: a Slurm that runs here already is left
# alone. Where Debian's slurm-wlm and munge are not installed it installs them (apt-get, as root); all else needs no root.
# The node says it has 4 CPUs, whatever it has: the tests start more workers than a small machine has.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

for needed in munged slurmctld slurmd sbatch; do
    command -v "$needed" >/dev/null && continue
    [ "$(id -u)" = 0 ] || { echo "with_slurm: $needed is not there; as root: apt-get install slurm-wlm munge" >&2; exit 1; }
    echo "with_slurm: installing Debian's slurm-wlm and munge (30 MB)" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
    break
done

dir=$(mktemp -d /tmp/sweep-slurm.XXXXXX)
pids=()
stop() {
    status=$?
    trap '' INT TERM
    export SLURM_CONF=$dir/slurm.conf
    if [ -n "${ready:-}" ] && timeout 10 scancel --quiet --me >/dev/null 2>&1; then
        for _ in {1..50}; do [ -n "$(timeout 5 squeue --me --noheader 2>/dev/null)" ] || break; sleep 0.2; done
    fi
    for pid in "${pids[@]}"; do # the newest first: slurmd, slurmctld, munged
        kill "$pid" 2>/dev/null || continue
        for _ in {1..50}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

host=$(hostname -s)
user=$(id -un)
read -r ctld_port slurmd_port < <(python3 -c '
import socket
free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in free))')
mkdir "$dir/state" "$dir/spool"
cat >"$dir/slurm.conf" <<CONF
ClusterName=throwaway
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$ctld_port
SlurmdPort=$slurmd_port
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
KillWait=2
ReturnToService=2
MailProg=/bin/true
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$dir/slurm.conf

# In sessions of their own: Ctrl-C and a kill of the whole group reach them through `stop` only, after their jobs.
(umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
setsid munged --foreground --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munge.pid" \
    --log-file="$dir/munge.log" --seed-file="$dir/munge.seed" >"$dir/munge.out" 2>&1 &
pids=($! "${pids[@]}")
for _ in {1..100}; do [ -S "$dir/munge.socket" ] && break; sleep 0.1; done
setsid slurmctld -D >"$dir/slurmctld.log" 2>&1 &
pids=($! "${pids[@]}")
setsid slurmd -D >"$dir/slurmd.log" 2>&1 &
pids=($! "${pids[@]}")
for _ in {1..60}; do
    [ "$(timeout 5 sinfo --noheader --format=%T 2>/dev/null)" = idle ] && ready=1 && break
    sleep 0.5
done
[ "${ready:-}" = 1 ] || { tail -n 5 "$dir"/*.log "$dir"/*.out >&2; echo "with_slurm: the node did not become idle" >&2; exit 1; }
"$@"
