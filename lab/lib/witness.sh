# SPDX-License-Identifier: Apache-2.0
# Part of watari-lab: the witness, a machine with corosync-qnetd, and corosync-qdevice in the nodes.
# shellcheck shell=bash disable=SC2154,SC2016  # $run, $build, $nodes ... are watari-lab's

need_witness() {
	need_lab
	[ "$witness" ] || die 69 "lab '$lab_name' has no witness: watari-lab up --witness"
}

witness_on() {
	local pid
	witness_off
	machine_spawn witness
	pid=$(pid_of witness)
	switch_ip link add witnessc type veth peer name eth0 netns "$pid"
	switch_ip link set witnessc master cluster up
	# Unencrypted, as nothing but this lab's nodes is on that network: certificates are the administrator's work.
	enter witness bash -ec '
		hostname "$1-witness"
		mount -n -t tmpfs -o mode=0755 run /run
		mkdir /run/corosync-qnetd
		ip link set lo up
		ip link set eth0 address 02:77:00:00:00:64 up
		ip addr add 10.70.0.100/24 dev eth0
		exec setsid -f corosync-qnetd -f -s off -c off -l 10.70.0.100 > "$2/witness.log" 2>&1 < /dev/null' \
		witness "$lab_name" "$store" || die 71 "the witness did not boot"
	is_whole_now witness
}

witness_off() {
	local pid
	if pid=$(pid_of witness); then kill -KILL "$pid" && wait_gone "$pid"; fi
	wire_remove witnessc
	switch_ip link del witnessc 2> /dev/null || :
}

# What corosync.conf says of it, within "quorum".
witness_conf() {
	printf '\tdevice {\n\t\tmodel: net\n\t\tvotes: 1\n'
	[ "$witness" = default ] || printf '\t\ttimeout: 3000\n\t\tsync_timeout: 6000\n'
	printf '\t\tnet {\n\t\t\ttls: off\n\t\t\thost: 10.70.0.100\n\t\t\talgorithm: ffsplit\n\t\t}\n\t}\n'
}

# corosync-qdevice ends with corosync, and wants it there when it starts.
qdevice_start() { # NODE
	[ "$witness" ] || return 0
	enter "$1" bash -c '
		! pgrep -x corosync-qdevic > /dev/null || exit 0
		mkdir -p /run/corosync-qdevice
		exec setsid -f corosync-qdevice -f >> /var/log/qdevice.out 2>&1 < /dev/null'
}

witness_wait() { # NODE: until its vote counts there
	enter "$1" bash -c '
		deadline=$((SECONDS + $1))
		until corosync-quorumtool -s | grep -qE "^ +0 +[1-9][0-9]* +Qdevice"; do
			((SECONDS < deadline)) || { corosync-quorumtool -s; exit 1; }
			sleep 0.1
		done' witness "$quorum_deadline_s" >&2 || die 106 "$1: no vote of the witness after $quorum_deadline_s s"
}

witness_cable() { # WHAT: it has one cable
	need_witness
	is_on witness || die 69 "the witness is powered off: watari-lab power-on witness"
	[[ $1 == network || $1 == cluster ]] || die 64 "the witness has a network, and nothing else to cut"
}

# on|off|cut
witness_state() {
	if ! is_on witness; then echo off; elif [ "$(link_state witnessc)" = up ]; then echo on; else echo cut; fi
}
