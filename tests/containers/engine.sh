#!/bin/sh
# A container engine for a test, where none is running and no image registry can be reached. As root, on Debian:
#
#   apt-get install --no-install-recommends docker.io iptables mmdebstrap
#   sh tests/containers/engine.sh start DIR         a Docker daemon of its own, everything of it in DIR
#   export DOCKER_HOST=unix://DIR/docker.sock
#   sh tests/containers/engine.sh base-image NAME   Debian's smallest system with Python, from its packages
#   sh tests/containers/engine.sh stop DIR          ends the daemon and removes DIR
#
# DIR is an absolute path on a disk (not on an overlay), with 10 GB free. The daemon lives in a network namespace of its
# own, so that it touches no firewall rule of the machine: its containers reach each other and nothing else.
set -eu

START_S=60
STOP_S=30

start() {
    mkdir -p "$1"
    # cgroupfs and the out-of-memory score: what a machine without systemd, or a container, allows.
    setsid unshare --net sh -c '
        ip link set lo up
        exec dockerd --host "unix://$1/docker.sock" --pidfile "$1/docker.pid" \
            --data-root "$1/data" --exec-root "$1/exec" --storage-driver overlay2 \
            --exec-opt native.cgroupdriver=cgroupfs --oom-score-adjust 0
    ' sh "$1" >"$1/log" 2>&1 </dev/null &
    daemon=$!
    for _ in $(seq "$START_S"); do
        if docker --host "unix://$1/docker.sock" version >/dev/null 2>&1; then
            echo "the engine runs; now: export DOCKER_HOST=unix://$1/docker.sock"
            return
        fi
        if ! kill -0 "$daemon" 2>/dev/null; then
            break
        fi
        sleep 1
    done
    echo "the engine did not start; the end of $1/log:" >&2
    tail -n 15 "$1/log" >&2
    exit 1
}

stop() {
    if [ -f "$1/docker.pid" ]; then
        daemon=$(cat "$1/docker.pid")
        kill "$daemon" 2>/dev/null || true
        for _ in $(seq "$STOP_S"); do
            kill -0 "$daemon" 2>/dev/null || break
            sleep 1
        done
        if kill -0 "$daemon" 2>/dev/null; then
            echo "the engine, process $daemon, does not stop" >&2
            exit 1
        fi
    fi
    # What is still mounted below DIR must not be removed with it.
    awk -v root="$1/" 'index($2, root) == 1 { print $2 }' /proc/mounts | sort -r | while read -r path; do
        umount "$path"
    done
    rm -rf "$1"
}

base_image() {
    archive=$(mktemp --suffix=.tar)
    trap 'rm -f "$archive"' EXIT
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$archive"
    docker import "$archive" "$1"
}

case "${1-} $#" in
"start 2") start "$2" ;;
"stop 2") stop "$2" ;;
"base-image 2") base_image "$2" ;;
*) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
