# A distribution with systemd on cgroup v2, where the tests have made its image.

system() {
    with_agent distribution --data-dir /var/lib/system --run-dir /run/system
}

distribution() {
    export SWARM_HOST=unix:///run/system/host.sock
    eventually test -S /run/system/host.sock
    swarmctl image import debian /tests/debian.tar >/dev/null 2>&1
    for flags in "--memory 512m" "--user-namespace"; do
        begin=$(date +%s)
        # shellcheck disable=SC2086 # a list of options
        swarmctl run -d --name sys --stop-timeout 120s $flags --tmpfs /shared debian /sbin/init >/dev/null
        tries=0
        until [ "$(swarmctl exec sys.1 systemctl is-system-running 2>/dev/null)" = running ]; do
            tries=$((tries + 1))
            [ "$tries" -lt 90 ] || { swarmctl exec sys.1 systemctl --no-pager --failed; swarmctl logs sys | tail -n 30; fail "it does not boot"; }
            sleep 1
        done
        say "with $flags it is up after $(($(date +%s) - begin)) s"
        swarmctl exec sys.1 sh -c 'cat /proc/$(systemctl show --value -p MainPID one)/cgroup' | grep -q '^0::/system.slice/one.service' \
            || fail "its services are not parted"
        # What it may write to is below the cgroup with its limits.
        swarmctl exec sys.1 sh -c 'echo max >/sys/fs/cgroup/memory.max' 2>/dev/null || true
        group=$(ls -d /sys/fs/cgroup/swarmd/*/ | head -n 1)
        [ "$flags" = --user-namespace ] || holds "${group}memory.max" 536870912
        swarmctl stats --no-stream sys | grep -q sys || fail "no statistics"
        swarmctl stop sys >/dev/null
        swarmctl inspect sys.1 | grep -q '"code": 0' || { swarmctl ps -a; swarmctl logs sys | tail -n 5; fail "it did not shut down by itself"; }
        swarmctl rm -f sys >/dev/null
        say "it has shut down"
    done
}
