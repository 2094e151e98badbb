# SPDX-License-Identifier: Apache-2.0
# Part of watari-lab: the nodes' outlets, controllers and watchdogs, which one process plays (lab/hardware).
# shellcheck shell=bash disable=SC2154  # $run, $build, $nodes ... are watari-lab's

hardware_pid() { pgrep -o -f -x -U 0 "watari-hardware $run .*"; }

# It lives in this machine's own PID namespace, since it calls watari-lab, and ends by itself with the lab's switch.
hardware_on() {
	local i
	! hardware_pid > /dev/null || return 0
	for ((i = 1; i <= nodes; i++)); do mkdir -p "$run/hw/n$i"; done
	chmod 0700 "$run/hw"
	WATARI_LAB_NAME=$lab_name WATARI_LAB_DIR=$run_base WATARI_LAB_STORE=$store_base \
		"$build/lab/hardware" run "$run" "$here/watari-lab" "$nodes" ${watchdog:+watchdog} ||
		die 71 "cannot make the lab's hardware"
}

hardware_off() {
	local pid
	if pid=$(hardware_pid); then kill -KILL "$pid" 2> /dev/null || :; wait_gone "$pid"; fi
}

hardware_ask() { # WORD...: prints the answer
	local answer
	answer=$("$build/lab/hardware" ask "$run/hw/control.sock" "$@") ||
		die "$([[ $answer == error* ]] && echo 64 || echo 69)" "$1 $2: ${answer:-the lab\'s hardware does not answer}"
	echo "$answer"
}

hardware_mend() { hardware_ask mend "$1" > /dev/null; } # NODE

do_bmc() {
	need_node "${1:-}"
	(($# <= 2)) || die 64 "bmc NODE [FAULT]"
	if (($# == 2)); then hardware_ask bmc "$1" "$2" > /dev/null; else hardware_ask bmc "$1"; fi
}

do_watchdog() {
	need_node "${1:-}"
	[ "$watchdog" ] || die 69 "the nodes of lab '$lab_name' have no watchdog: watari-lab up --watchdog"
	(($# <= 2)) || die 64 "watchdog NODE [ok|dead]"
	if (($# == 2)); then hardware_ask watchdog "$1" "$2" > /dev/null; else hardware_ask watchdog "$1"; fi
}

do_hardware() {
	need_lab
	[[ $# == 0 || ($# == 1 && $1 == -f) ]] || die 64 "hardware [-f]"
	exec tail -n +1 ${1:-} "$run/hw/log"
}
