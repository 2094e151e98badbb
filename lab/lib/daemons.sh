# SPDX-License-Identifier: Apache-2.0
# Part of watari-lab: corosync and watarid in the nodes.
# shellcheck shell=bash disable=SC2154,SC2016

daemon_is_on() { enter "$1" pgrep -x "$2" > /dev/null; } # NODE DAEMON

daemon_start() { # NODE DAEMON: started, not yet ready
	local binary
	! daemon_is_on "$1" "$2" || return 0
	case $2 in
	corosync) binary="/usr/sbin/corosync -f" ;;
	watarid) binary="nice -n -10 /run/lab/build/src/cmd/watarid" ;; # as its unit has it
	esac
	enter "$1" bash -c "mkdir -p /run/watari; exec setsid -f $binary >> /var/log/$2.out 2>&1 < /dev/null"
}

daemon_wait_ready() { # NODE DAEMON MEMBERS (0: any number, quorate or not)
	local rc=0
	case $2 in
	corosync)
		enter "$1" bash -c '
			deadline=$((SECONDS + $2))
			until out=$(corosync-quorumtool -s 2>&1) || ((!$1 && $? == 2)) &&
				{ ((!$1)) || grep -qE "^Nodes: +$1\$" <<< "$out"; }; do
				pgrep -x corosync > /dev/null || { echo "corosync ended: /var/log/corosync/corosync.log"; exit 1; }
				((SECONDS < deadline)) || { printf "%s\n" "$out"; exit 1; }
				sleep 0.1
			done' quorum "$3" "$quorum_deadline_s" >&2 || rc=1
		((!rc)) || die 106 "$1: corosync has no quorum of $3 nodes after $quorum_deadline_s s (watari-lab logs $1 corosync)"
		;;
	watarid)
		enter "$1" bash -c '
			deadline=$((SECONDS + $1))
			# The file may be that of a daemon that was killed: what counts is who listens.
			until ss -Hlx src /run/watari/api.sock | grep -q .; do
				# On a busy machine it is still its parent, or nice, for a moment.
				((SECONDS < deadline)) && { ((SECONDS < 3)) || pgrep -x watarid > /dev/null; } || exit 1
				sleep 0.05
			done' ready "$daemon_deadline_s" || rc=1
		((!rc)) || {
			enter "$1" tail -n 5 /var/log/watarid.out >&2 || :
			die 69 "$1: watarid does not answer (watari-lab logs $1 watarid)"
		}
		;;
	esac
}

# Until this node's daemon is in sync and sees all nodes online: what is asked of it from then on meets no view that changes.
daemon_wait_online() { # NODE NODES
	enter "$1" bash -c '
		deadline=$((SECONDS + $2))
		until out=$(/run/lab/build/src/cmd/watari status -o json 2>&1) && grep -q "\"synced\": *true" <<< "$out" &&
			grep -q "\"nodes_online\": *$1\>" <<< "$out"; do
			((SECONDS < deadline)) || { printf "%s\n" "$out" | tail -n 20; exit 1; }
			sleep 0.05
		done' online "$2" "$quorum_deadline_s" >&2 ||
		die 106 "$1: watarid does not see $2 nodes online after $quorum_deadline_s s (watari-lab logs $1 watarid)"
}

daemon_stop() { # NODE DAEMON SIGNAL: returns when it is gone
	enter "$1" bash -c '
		pkill "-$2" -x "$1" || exit 0
		deadline=$((SECONDS + 20))
		while pgrep -x "$1" > /dev/null; do
			((SECONDS < deadline)) || exit 1
			sleep 0.02
		done' stop "$2" "$3" || die 74 "$1: $2 does not end"
}

has_daemon() { [ -x "$build/src/cmd/watarid" ]; }
