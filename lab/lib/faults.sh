# SPDX-License-Identifier: Apache-2.0
# Part of watari-lab: cables and storage, whole and cut.
# shellcheck shell=bash disable=SC2154,SC2016

links_of() { # NODE WHAT
	case $2 in
	cluster) echo "$1c" ;;
	guests) echo "$1g" ;;
	network) echo "$1c $1g" ;;
	esac
}

link_is_up() { switch_ip -o link show "$1" 2> /dev/null | grep -q '[<,]UP[,>]'; }

# What the node sees at /srv/watari: ok, readonly, gone (an empty directory covers it), and over FUSE also hang (whoever
# asks waits) and error (whoever asks, with files open or not, is told ENOTCONN).
storage_state() { # NODE
	enter "$1" bash -c '
		case $(findmnt -n -o SOURCE,OPTIONS /srv/watari | tail -n 1) in
		cut\ *) echo gone && exit ;;
		*\ ro,*) echo readonly && exit ;;
		esac
		[ "$1" ] || { echo ok && exit; }
		case $(ps -C bindfs -o stat=) in
		"" | Z*) echo error ;;
		T*) echo hang ;;
		*) echo ok ;;
		esac' state "$storage_fuse"
}

# In a lab with --storage-fuse each node reaches the shared storage through a process of its own, which can be stopped
# and killed. Waits until it serves.
storage_mount() { # NODE
	enter "$1" bash -c '
		setsid -f bindfs -f --multithreaded --enable-lock-forwarding --forward-odirect=4096 \
			/run/lab/shared /srv/watari > /var/log/bindfs.out 2>&1 < /dev/null
		deadline=$((SECONDS + 10))
		until findmnt -n -t fuse,fuse.bindfs /srv/watari > /dev/null; do
			((SECONDS < deadline)) || { cat /var/log/bindfs.out; exit 1; }
			sleep 0.02
		done' || die 71 "$1: bindfs does not serve the shared storage"
}

cut_storage() { # NODE HOW
	[[ $2 == readonly || $2 == gone || $2 == hang || $2 == error ]] ||
		die 64 "storage is cut readonly, gone, hang or error, not '$2'"
	[[ $2 != hang && $2 != error || -n $storage_fuse ]] || die 64 "'$2' needs a lab made with: up --storage-fuse"
	heal_storage "$1"
	case $2 in
	readonly) enter "$1" mount -n -o remount,bind,ro /srv/watari ||
		die 75 "$1: files are open for writing below /srv/watari; another way: watari-lab cut $1 storage gone" ;;
	gone) enter "$1" mount -n -t tmpfs -o ro,mode=0755 cut /srv/watari ;;
	hang) enter "$1" pkill -STOP -x bindfs ;;
	error) enter "$1" bash -c 'pkill -KILL -x bindfs; while pgrep -x -r R,S,D,T bindfs > /dev/null; do sleep 0.02; done' ;;
	esac
}

heal_storage() { # NODE
	case $(storage_state "$1") in
	gone) enter "$1" umount -n -l /srv/watari ;;
	readonly) enter "$1" mount -n -o remount,bind,rw /srv/watari ;;
	hang) enter "$1" pkill -CONT -x bindfs ;;
	error)
		# Files that were open stay dead: that is what a stale handle is.
		enter "$1" umount -n -l /srv/watari
		storage_mount "$1"
		;;
	esac
	[ "$(storage_state "$1")" = ok ] || heal_storage "$1"
}
