# SPDX-License-Identifier: Apache-2.0
# Part of watari-lab: the machines (switch, client, nodes), their power and their files.
# shellcheck shell=bash disable=SC2154  # $run, $store, $build, $nodes ... are watari-lab's

# The pid of a machine's keeper as this machine sees it; fails when it is off.
pid_of() {
	pgrep -o -f -x -U 0 "watari-keeper $run $1"
}

# A machine whose making was interrupted is not on.
is_on() {
	local pid booted
	pid=$(pid_of "$1") && booted=$(cat "$run/$1.booted" 2> /dev/null) && [ "$booted" = "$pid" ]
}

is_whole_now() { pid_of "$1" > "$run/$1.booted"; }

lab_is_up() { is_on switch; }

need_lab() { lab_is_up || die 69 "lab '$lab_name' is not up: watari-lab up"; }

# NODE: also refuses what is not a node's name.
need_node() {
	need_lab
	[[ $1 =~ ^n[1-8]$ && ${1#n} -le $nodes ]] || die 64 "'$1' is not a node of this lab (n1 to n$nodes)"
}

need_powered() {
	need_node "$1"
	is_on "$1" || die 69 "$1 is powered off: watari-lab power-on $1"
}

enter() { # MACHINE CMD...
	local pid
	pid=$(pid_of "$1") || die 69 "$1 is powered off"
	"$build/lab/keeper" enter "$pid" -- "${@:2}"
}

# What links look like is decided in the switch's network, but named by pids of this machine's PID namespace.
switch_ip() { nsenter -t "$(pid_of switch)" -n ip "$@"; }

wait_gone() { # PID: until it is gone or a zombie
	local state deadline=$((SECONDS + 20))
	while state=$(sed 's/.*) \(.\).*/\1/' "/proc/$1/stat" 2> /dev/null) && [[ $state != [ZX] ]]; do
		((SECONDS < deadline)) || die 74 "process $1 does not die"
		sleep 0.02
	done
}

write_node_files() { # NODE
	local disk=$store/$1 i
	mkdir -p "$disk"/{watari,corosync,etc-corosync,etc-watari,log/corosync,log/watari}
	chmod 0755 "$disk"
	install -m 0400 "$store/authkey" "$disk/etc-corosync/authkey"
	{
		cat <<END
totem {
	version: 2
	cluster_name: watari-$lab_name
	transport: knet
	crypto_cipher: aes256
	crypto_hash: sha256
	token: $token
	token_coefficient: 0
	seqno_unchanged_const: 3
}
system {
	sched_rr: no
	move_to_root_cgroup: no
	state_dir: /var/lib/corosync
}
quorum {
	provider: corosync_votequorum
END
		if [ "$witness" ]; then
			witness_conf
		elif ((nodes == 2)); then
			printf '\ttwo_node: 1\n\twait_for_all: 1\n'
		fi
		cat <<END
}
logging {
	to_stderr: no
	to_syslog: no
	to_logfile: yes
	logfile: /var/log/corosync/corosync.log
	timestamp: hires
}
nodelist {
END
		for ((i = 1; i <= nodes; i++)); do
			printf '\tnode {\n\t\tname: n%d\n\t\tnodeid: %d\n\t\tring0_addr: 10.70.0.%d\n\t}\n' "$i" "$i" "$i"
		done
		echo "}"
	} > "$disk/etc-corosync/corosync.conf"
	cat > "$disk/etc-watari/watarid.conf" <<END
[cluster]
uuid=$(< "$store/cluster-uuid")

[node]
name=$1

[paths]
store=/var/lib/watari
run=/run/watari
state=/srv/watari/state

[fence]
agents=/run/lab/agents

[qemu]
binary=/usr/bin/qemu-system-x86_64
uid_base=200000
END
	[ -z "$watchdog" ] || cat >> "$disk/etc-watari/watarid.conf" <<END

[watchdog]
device=/run/watari-watchdog
timeout=${watchdog}ms
END
}

machine_spawn() { # NAME
	if [ "$1" = switch ]; then
		"$build/lab/keeper" spawn "$run" switch
	else
		enter switch "$build/lab/keeper" spawn "$run" "$1"
	fi || die 71 "cannot make machine $1"
}

link_del() { # NODE
	wire_remove "$1c"
	wire_remove "$1g"
	switch_ip link del "$1c" 2> /dev/null || :
	switch_ip link del "$1g" 2> /dev/null || :
}

node_on() { # NODE
	local index=${1#n} pid
	node_off "$1"
	write_node_files "$1"
	machine_spawn "$1"
	pid=$(pid_of "$1")
	switch_ip link add "$1c" type veth peer name eth0 netns "$pid"
	switch_ip link add "$1g" type veth peer name eth1 netns "$pid"
	switch_ip link set "$1c" master cluster up
	switch_ip link set "$1g" master guests up
	enter "$1" bash -s "$1" "$index" "$nodes" "$run" "$store" "$build" \
		"${storage_fuse:-plain}" "$watchdog" < "$here/machine-up" || {
		kill -KILL "$pid"
		die 71 "$1 did not boot"
	}
	[ -z "$storage_fuse" ] || storage_mount "$1"
	is_whole_now "$1"
	hardware_ask booted "$1" > /dev/null
}

node_off() { # NODE
	local pid
	if pid=$(pid_of "$1"); then kill -KILL "$pid"; fi
	link_del "$1"
	[ -z "$pid" ] || wait_gone "$pid"
}

switch_on() {
	local bridge pid
	# Half a switch: everything hangs on it, so that it goes with all that is behind it.
	if pid=$(pid_of switch); then kill -KILL "$pid" && wait_gone "$pid"; fi
	machine_spawn switch
	for bridge in cluster guests; do
		switch_ip link add "$bridge" type bridge stp_state 0 forward_delay 0 mcast_snooping 0
		switch_ip link set "$bridge" up
	done
	switch_ip link set lo up
	enter switch hostname "$lab_name-switch"
	# Mounted in the switch's namespace, which the nodes' are copies of: it and its loop device end with the lab.
	((!storage_mib)) || enter switch mount -n -o loop "$store/shared.img" "$store/shared" ||
		die 71 "cannot mount the shared storage (are loop devices free?)"
	is_whole_now switch
}

client_on() {
	local pid
	if pid=$(pid_of client); then kill -KILL "$pid" && wait_gone "$pid"; fi
	switch_ip link del client 2> /dev/null || :
	machine_spawn client
	pid=$(pid_of client)
	switch_ip link add client type veth peer name eth0 netns "$pid"
	switch_ip link set client master guests up
	enter client bash -ec '
		ip link set lo up
		ip link set eth0 address 02:77:01:00:00:fe up
		# A client that asks for an address each second would measure in seconds.
		echo 100 > /proc/sys/net/ipv4/neigh/eth0/retrans_time_ms
		ip addr add 10.77.0.1/24 dev eth0'
	enter client hostname "$lab_name-client"
	is_whole_now client
}
