# Readies a machine for all test groups; sourced by .ci/run. As root on Debian it installs what
# is missing of the engine, Compose, nginx, wrk and Chromium, and starts dockerd where no engine answers.
# Anywhere else it changes nothing and says what is missing: the tests leave those groups out by
# name. It never fails by itself.
#
# Sets ENGINE_PID to the dockerd started here, and to nothing if one was running already;
# `engine_stop` ends the former and leaves the latter alone.

ENGINE_PID=
ENGINE_LOG=${TMPDIR:-/tmp}/lbctl-dockerd.log

engine_answers() {
    docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

engine_install() {
    missing=
    command -v dockerd >/dev/null || missing="$missing docker.io"
    # Newer Debian has the client in a package of its own.
    command -v docker >/dev/null || ! apt-cache show docker-cli >/dev/null 2>&1 \
        || missing="$missing docker-cli"
    command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing="$missing nginx-light"
    command -v wrk >/dev/null || missing="$missing wrk"
    command -v promtool >/dev/null || missing="$missing prometheus"
    command -v chromium >/dev/null || missing="$missing chromium"
    command -v docker-compose >/dev/null || missing="$missing docker-compose"
    # The shells that completion is for.
    command -v zsh >/dev/null || missing="$missing zsh"
    command -v fish >/dev/null || missing="$missing fish"
    # For the tests' second engine, in a network namespace of its own.
    command -v ip >/dev/null || missing="$missing iproute2"
    command -v iptables >/dev/null || missing="$missing iptables"
    # Stands in for alpine:3.10 where that cannot be had.
    command -v busybox >/dev/null || missing="$missing busybox-static"
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "engine.sh: not root on Debian, so not installed:$missing" >&2
        return 0
    fi
    echo "engine.sh: installing$missing"
    # A service that Debian starts by itself would take port 80 and be nobody's to stop.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 0755 "$policy"
    else
        policy=
    fi
    # shellcheck disable=SC2086 # a list of words
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y $missing; } >"$ENGINE_LOG" 2>&1 || {
        echo "engine.sh: apt-get failed; the end of what it said:" >&2
        tail -n 20 "$ENGINE_LOG" >&2
    }
    [ -z "$policy" ] || rm -f "$policy"
}

engine_start() {
    if engine_answers; then
        echo "engine.sh: an engine answers: $(docker version --format '{{.Server.Version}}')"
        return 0
    fi
    if [ "$(id -u)" -ne 0 ] || ! command -v dockerd >/dev/null; then
        echo "engine.sh: no engine answers, and none can be started here" >&2
        return 0
    fi
    # Without an init system nobody has mounted these yet (cgroupfs-mount comes with docker.io).
    if [ ! -e /sys/fs/cgroup/cgroup.controllers ] && [ ! -d /sys/fs/cgroup/memory ] \
        && command -v cgroupfs-mount >/dev/null; then
        cgroupfs-mount || true
    fi
    dockerd >"$ENGINE_LOG" 2>&1 </dev/null &
    ENGINE_PID=$!
    tries=0
    while ! engine_answers; do
        tries=$((tries + 1))
        if ! kill -0 "$ENGINE_PID" 2>/dev/null || [ "$tries" -gt 150 ]; then
            echo "engine.sh: dockerd does not come up; the end of its log:" >&2
            tail -n 20 "$ENGINE_LOG" >&2
            engine_stop
            return 0
        fi
        sleep 0.2
    done
    echo "engine.sh: started dockerd $(docker version --format '{{.Server.Version}}'), pid $ENGINE_PID"
}

engine_stop() {
    [ -n "$ENGINE_PID" ] || return 0
    kill "$ENGINE_PID" 2>/dev/null || true
    wait "$ENGINE_PID" 2>/dev/null || true
    ENGINE_PID=
}

engine_install
engine_start
