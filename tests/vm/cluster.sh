# A one-node cluster on cgroup v2, used as a user does: an image, limits, exec, the end for lack of memory, figures, stop.

cluster() {
    with_agent verbs --data-dir /var/lib/swarmd --run-dir /run/swarmd --advertise-addr 10.99.0.1
}

with_agent() { # FUNCTION FLAG…: calls it while an agent with these flags runs
    function=$1
    shift
    swarmd "$@" --log warn >"/tmp/$function.log" 2>&1 &
    agent=$!
    result=0
    (set -e; "$function") || result=1
    kill "$agent" && wait "$agent"
    [ "$result" = 0 ] || tail -n 40 "/tmp/$function.log"
    return "$result"
}

say() { echo "  $*"; }
fail() { echo "  $*"; exit 1; }
eventually() { # COMMAND…: until it succeeds
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 120 ] || fail "this never came true: $*"
        sleep 0.5
    done
}
holds() { # FILE TEXT
    [ "$(cat "$1")" = "$2" ] || fail "$1 is \`$(cat "$1")\`, not \`$2\`"
    say "${1##*/} is $2"
}

verbs() {
    eventually test -S /run/swarmd/cluster.sock
    swarmctl init >/dev/null
    mkdir -p /tmp/rootfs/bin /tmp/rootfs/tmp
    cp /bin/busybox /tmp/rootfs/bin/busybox
    for applet in sh sleep cat echo head tail id grep mknod dd ls; do ln -sf busybox "/tmp/rootfs/bin/$applet"; done
    tar -C /tmp/rootfs -cf /tmp/busybox.tar .
    swarmctl image import busybox /tmp/busybox.tar >/dev/null

    swarmctl run -d --name web --memory 64m --cpus 0.5 --pids 32 busybox sleep 1000 >/dev/null
    eventually sh -c 'swarmctl ps | grep web | grep -q running' || { swarmctl ps; exit 1; }
    group=$(ls -d /sys/fs/cgroup/swarmd/*/ | head -n 1)
    group=${group%/}
    [ -d "$group" ] || fail "no cgroup of the task: $group"
    holds "$group/memory.max" 67108864
    holds "$group/cpu.max" "50000 100000"
    holds "$group/pids.max" 32
    swarmctl exec web sh -c 'echo inside; cat /proc/self/cgroup' | grep -q inside
    say "exec answers"
    swarmctl exec web sh -c 'mknod /tmp/disk b 254 0; head -c 1 /tmp/disk' >/tmp/out 2>&1 && fail "the host's disk can be read in a container"
    say "the host's disk cannot be opened: $(tail -n 1 /tmp/out)"
    swarmctl stats --no-stream web >/tmp/stats 2>&1 || { timeout 5 swarmctl stats web >/tmp/stats 2>&1 || true; }
    grep -q web /tmp/stats || fail "no statistics: $(cat /tmp/stats)"
    say "stats: $(tail -n 1 /tmp/stats)"

    swarmctl run -d --name mapped --user-namespace busybox sh -c 'id -u; cat /proc/self/uid_map; touch /made && sleep 1000' >/dev/null
    eventually sh -c 'swarmctl logs mapped | grep -q 65536'
    say "in a user namespace: $(swarmctl logs mapped | tail -n 1 | tr -s " ")"

    swarmctl run -d --name greedy --restart never --memory 16m busybox sh -c 'tail /dev/zero' >/dev/null
    eventually sh -c 'swarmctl ps -a | grep greedy | grep -qi memory'
    say "ps says: $(swarmctl ps -a | grep greedy | tail -n 1)"

    swarmctl run -d --name parent --memory 16m busybox sh -c 'sh -c "tail /dev/zero"; while true; do sleep 1; done' >/dev/null
    eventually sh -c 'swarmctl ps | grep parent | grep running | grep -q "1 process was killed"'
    say "ps says of one that goes on: $(swarmctl ps | grep parent)"

    swarmctl stop web >/dev/null
    eventually sh -c '! swarmctl ps | grep web | grep -q running'
    swarmctl rm --force parent >/dev/null
    swarmctl rm web greedy mapped >/dev/null
    eventually sh -c '[ -z "$(ls -d /sys/fs/cgroup/swarmd/*/ 2>/dev/null)" ]'
    say "nothing is left in /sys/fs/cgroup/swarmd"
}
