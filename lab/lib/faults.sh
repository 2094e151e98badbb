# SPDX-License-Identifier: Apache-2.0
# Part of watari-lab: cables and storage, whole and cut.
# shellcheck shell=bash disable=SC2154,SC2016

links_of() { # NODE WHAT
	case $1.$2 in witness.network | witness.cluster) echo witnessc && return ;; esac
	case $2 in
	cluster) echo "$1c" ;;
	guests) echo "$1g" ;;
	network) echo "$1c $1g" ;;
	esac
}

wire_pid() { enter switch pgrep -o -f -x "watari-wire $1 .*"; } # PORT

wire_remove() { # PORT
	local pid
	if pid=$(wire_pid "$1"); then enter switch kill -KILL "$pid" || :; fi
	switch_ip link del "$1w" 2> /dev/null || :
}

bridge_of() { [[ $1 == *c ]] && echo cluster || echo guests; } # PORT

# Puts a bad cable between a port and the switch (lab/wire.c).
wire_insert() { # PORT WAY...
	wire_remove "$1"
	switch_ip link set "$1" nomaster up
	switch_ip tuntap add "$1w" mode tap vnet_hdr
	switch_ip link set "$1w" master "$(bridge_of "$1")" up
	enter switch "$build/lab/wire" "$1" "$1w" "${@:2}" || {
		heal_link "$1"
		die 64 "the cable of ${1%?} is whole"
	}
}

heal_link() { # PORT
	wire_remove "$1"
	switch_ip link set "$1" master "$(bridge_of "$1")" up
}

# cut NODE WHAT [--in|--out]
cut_link() { # NODE WHAT [--in|--out]
	local link
	case ${3:-} in
	'') for link in $(links_of "$1" "$2"); do switch_ip link set "$link" down; done ;;
	--in | --out) for link in $(links_of "$1" "$2"); do wire_insert "$link" "${3#--}:loss=100"; done ;;
	*) die 64 "cut $1 $2: --in, --out or both by neither, not '$3'" ;;
	esac
}

do_degrade() {
	local node=${1:-} what=${2:-} ways=(in out) keys='' link
	need_powered "$node"
	[ "$(links_of "$node" "$what")" ] || die 64 "degrade what? network, cluster or guests"
	shift 2
	while (($#)); do
		case $1 in
		--in | --out) ways=("${1#--}") && shift && continue ;;
		--loss | --delay | --jitter | --duplicate | --reorder | --mtu) ;;
		*) die 64 "degrade: what is '$1'? See --help" ;;
		esac
		(($# > 1)) || die 64 "$1 wants a number"
		keys+=${keys:+,}${1#--}=$2
		shift 2
	done
	[ "$keys" ] || die 64 "degrade: by --loss, --delay, --jitter, --duplicate, --reorder or --mtu"
	for link in $(links_of "$node" "$what"); do wire_insert "$link" "${ways[@]/%/:$keys}"; done
}

link_state() { # PORT
	if ! link_is_up "$1"; then echo cut; elif wire_pid "$1" > /dev/null; then echo bad; else echo up; fi
}

# The pids, in NODE, of what a user calls watarid, corosync, or qemu with a VM's name.
pids_in() { # NODE WHAT [VM]
	case $2 in
	watarid | corosync) enter "$1" pgrep -x "$2" ;;
	qdevice) enter "$1" pgrep -x corosync-qdevic ;;
	qemu) enter "$1" pgrep -f "^[^ ]*qemu-system[^ ]* .*guest=${3//./\\.}," ;;
	esac
}

signal_process() { # SIGNAL NODE WHAT [VM]
	local pids
	need_powered "${2:-}"
	case ${3:-} in
	watarid | corosync | qdevice) (($# == 3)) || die 64 "no VM for $3" ;;
	qemu) [[ ${4:-} =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || die 64 "the QEMU of which VM?" ;;
	*) die 64 "which? watarid, corosync, qdevice, or qemu VM" ;;
	esac
	pids=$(pids_in "${@:2}") || die 69 "$2 runs no $3 ${4:-}"
	# shellcheck disable=SC2086 # several words
	enter "$2" kill "-$1" $pids
}

do_stop() { signal_process STOP "$@"; }
do_cont() { signal_process CONT "$@"; }

do_kill() {
	local waited
	signal_process KILL "$@"
	for ((waited = 0; waited < 1000; waited++)); do
		pids_in "$@" > /dev/null || return 0
		sleep 0.02
	done
	die 74 "$1: $2 does not die"
}

link_is_up() { switch_ip -o link show "$1" 2> /dev/null | grep -q '[<,]UP[,>]'; }

storage_tell() { # NODE [MODE]: prints the mode
	enter "$1" /run/lab/build/lab/storagefs tell /run/lab/storage.sock "${@:2}"
}

# What the node sees at /srv/watari: ok, readonly, gone (an empty directory covers it), and over FUSE also hang, stuck, error,
# full, slow:MS (lab/storage/storagefs.c), or dead (it was killed).
storage_state() { # NODE
	local state
	state=$(enter "$1" bash -c '
		case $(findmnt -n -o SOURCE,OPTIONS /srv/watari | tail -n 1) in
		cut\ *) echo gone ;;
		*\ ro,*) echo readonly ;;
		*) echo ok ;;
		esac')
	if [[ $state == ok && -n $storage_fuse ]]; then state=$(storage_tell "$1" 2> /dev/null) || state=dead; fi
	echo "$state"
}

# In a lab with --storage-fuse each node reaches the shared storage through a process of its own. Waits until it serves.
storage_mount() { # NODE
	enter "$1" bash -c '
		setsid -f /run/lab/build/lab/storagefs mount /run/lab/shared /srv/watari /run/lab/storage.sock \
			> /var/log/storagefs.out 2>&1 < /dev/null
		deadline=$((SECONDS + 10))
		until findmnt -n -t fuse.storagefs /srv/watari > /dev/null; do
			((SECONDS < deadline)) || { cat /var/log/storagefs.out; exit 1; }
			sleep 0.02
		done' || die 71 "$1: storagefs does not serve the shared storage"
}

cut_storage() { # NODE HOW
	case $2 in
	readonly | gone) ;;
	hang | stuck | error | full | slow:*) [ "$storage_fuse" ] || die 64 "'$2' needs a lab made with: up --storage-fuse" ;;
	*) die 64 "storage is cut readonly, gone, hang, stuck, error, full or slow:MS, not '$2'" ;;
	esac
	if [[ -n $storage_fuse && $2 != gone ]]; then
		storage_tell "$1" "$2" > /dev/null || die 64 "$1: its storage does not take '$2'"
		return
	fi
	heal_storage "$1"
	case $2 in
	readonly) enter "$1" mount -n -o remount,bind,ro /srv/watari ||
		die 75 "$1: files are open for writing below /srv/watari; in a lab made with up --storage-fuse they are no hindrance" ;;
	gone) enter "$1" mount -n -t tmpfs -o ro,mode=0755 cut /srv/watari ;;
	esac
}

heal_storage() { # NODE
	case $(storage_state "$1") in
	ok) return ;;
	gone) enter "$1" umount -n -l /srv/watari ;;
	dead)
		# Files that were open stay dead: that is what a stale handle is.
		enter "$1" umount -n -l /srv/watari || :
		storage_mount "$1"
		;;
	*) if [ "$storage_fuse" ]; then storage_tell "$1" ok > /dev/null; else
		enter "$1" mount -n -o remount,bind,rw /srv/watari
	fi ;;
	esac
	[ "$(storage_state "$1")" = ok ] || heal_storage "$1"
}
