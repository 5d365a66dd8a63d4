#!/bin/sh
# A bandwidth limit with the burst that runtimes send, 2^32-1 bits, becomes a queue of more than an hour at low rates.
#
# The guess: a burst of 2^32-1 bits means that bursts are not restricted. The first 512 MiB pass at full speed, then the rate holds, and packets that
#   would wait for more than 25 ms are dropped, as the plugin configures.
# What really happens: tbf keeps the burst as a time, in 32 bits of 64 ns: at most 275 s. The plugin's own conversion to ticks wraps in the same way. Below
#   16 Mbit/s the time that 512 MiB take at the rate is longer, so the burst is another number, while the limit of the queue in bytes is still computed
#   from 512 MiB. At 1 Mbit/s, packets wait up to 4,120 s instead of being dropped: connections do not slow down, they stand still.
# Why it matters: containerd sends 2^32-1 for the annotations kubernetes.io/ingress-bandwidth and egress-bandwidth, and CRI-O about eight times as much. A
#   runtime should derive the burst from the rate, such as a tenth of a second of it.
# Source: CNI plugins 1.9.0, bandwidth plugin, ifb_creator.go: CreateTBF(), buffer(), limit(); Linux, net/sched/sch_tbf.c: tbf_change(), and
#   include/net/pkt_sched.h: PSCHED_SHIFT. Seen on 6.18.
# Needs root, Go and iproute2; works in a network namespace of its own. Prints, and fails if it changes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
GOBIN=$work go install github.com/containernetworking/plugins/plugins/meta/bandwidth@v1.9.0
cat >limits.sh <<'SH'
set -eu
mount -t tmpfs run /run
ip link set lo up
ip netns add pod
ip link add host0 type veth peer name eth0 netns pod
mac() { sed 's/.*ether \([^ ]*\).*/\1/'; }
host=$(ip -o link show host0 | mac)
pod=$(ip -n pod -o link show eth0 | mac)
for limit in '1000000 1000000' '1000000 4294967295' '8000000 4294967295' '16000000 4294967295'; do
	set -- $limit
	CNI_COMMAND=ADD CNI_CONTAINERID=c CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 CNI_PATH=. ./bandwidth >/dev/null <<J
{"cniVersion": "1.0.0", "name": "n", "type": "bandwidth", "ingressRate": $1, "ingressBurst": $2, "prevResult": {"cniVersion": "1.0.0",
 "interfaces": [{"name": "host0", "mac": "$host"}, {"name": "eth0", "mac": "$pod", "sandbox": "/run/netns/pod"}],
 "ips": [{"address": "10.9.0.2/24", "interface": 1}]}}
J
	echo "rate $1 bit/s, burst $2 bit: $(tc qdisc show dev host0 root | sed 's/.*\(burst .*\)/\1/; s/ *$//')"
	tc qdisc del dev host0 root
done
SH
seen=$(unshare --mount --net --propagation private sh limits.sh)
echo "$seen"
expected='rate 1000000 bit/s, burst 1000000 bit: burst 125000b lat 25ms
rate 1000000 bit/s, burst 4294967295 bit: burst 21474835b lat 4.12e+03s
rate 8000000 bit/s, burst 4294967295 bit: burst 261993004b lat 275s
rate 16000000 bit/s, burst 4294967295 bit: burst 512Mb lat 25ms'
if [ "$seen" != "$expected" ]; then
	echo 'this is not what was seen before' >&2
	exit 1
fi
