#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A fence agent that misbehaves as its option mode says. dir: where the power, a counter and what it saw are kept.
saw=
while IFS= read -r line; do
	saw="$saw$line
"
	case $line in
	action=*) action=${line#action=} ;;
	mode=*) mode=${line#mode=} ;;
	dir=*) dir=${line#dir=} ;;
	password=*) password=${line#password=} ;;
	esac
done

status() {
	if [ -s "$dir/polls" ]; then
		left=$(cat "$dir/polls")
		if [ "$left" -gt 0 ]; then
			echo $((left - 1)) >"$dir/polls"
			exit 0
		fi
	fi
	[ "$(cat "$dir/power")" = on ] && exit 0
	exit 2
}
hang() {
	echo $$ >"$dir/pid.new" && mv "$dir/pid.new" "$dir/pid"
	while :; do sleep 1000; done
}

if [ -n "$dir" ]; then
	echo "$action" >>"$dir/calls"
	printf %s "$saw" >"$dir/saw"
	cat /proc/$$/cmdline /proc/$$/environ | tr '\0' ' ' >"$dir/process"
	ls /proc/$$/fd >"$dir/fds" # no pipe: its ends would be the shell's for a moment
fi
case $mode:$action in
*:metadata) [ -n "$dir" ] && [ -e "$dir/metadata" ] && exec cat "$dir/metadata"; echo "no metadata" >&2; exit 1 ;;
liar:off | liar:on) exit 0 ;;
hang:*) hang ;;
deaf:*) trap '' TERM; hang ;;
hang-after-off:off) echo off >"$dir/power"; hang ;;
slow-first:status) [ "$(wc -l <"$dir/calls")" -gt 1 ] || hang; status ;;
crash:*) kill -SEGV $$ ;;
garbage:*) head -c 200000 /dev/urandom; head -c 200000 /dev/urandom >&2; exit 1 ;;
flood:*) head -c 1073741824 /dev/zero; head -c 200000 /dev/zero >&2 ;;
polls:off) echo 3 >"$dir/polls" ;; # and the power goes
grandchild:off) sleep 1000 & echo $! >"$dir/pid" ;;
tell:*) echo "login with '$password' refused" >&2; echo >&2; exit 1 ;;
refuse:off | refuse:on) echo "2026-11-24 04:17:22,533 ERROR: not now" >&2; exit 1 ;;
blind:off) echo off >"$dir/power"; exit 1 ;;
odd:status) exit 3 ;;
esac
case $action in
status) status ;;
off | on) echo "$action" >"$dir/power" ;;
*) exit 1 ;;
esac
