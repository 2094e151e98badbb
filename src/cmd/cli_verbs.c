/* SPDX-License-Identifier: Apache-2.0
 * The table of verbs: what there is to type. Everything that --help, the man pages and the completion say is here. */
#include "cmd/cli.h"

/* clang-format off */
const struct opt cli_global_opts[] = {
	{"output", 'o', "FORMAT", "how to print: table (for people) or json (for scripts)", "table json", 0, 0},
	{"socket", 's', "PATH", "the daemon's socket (default $WATARI_SOCKET or /run/watari/api.sock)", 0, COMPLETE_FILE, 0},
	{"quiet", 'q', NULL, "no progress on stderr", 0, 0, 0},
	{"help", 'h', NULL, "what this verb does, with examples", 0, 0, 0},
	{0},
};

const struct opt cli_change_opts[] = {
	{"dry-run", 'n', NULL, "check everything, change nothing; say whether it would be done", 0, 0, 0},
	{0},
};

const struct opt cli_task_opts[] = {
	{"wait", 'w', NULL, "show progress and wait for the end (the default)", 0, 0, 0},
	{"no-wait", 0, NULL, "return as soon as the cluster has taken the order", 0, 0, 0},
	{"timeout", 't', "SECONDS", "give up waiting after this (exit status 124); the task goes on", 0, 0, 0},
	{0},
};

#define VM {"VM", false, COMPLETE_VM}
#define OF_VM {"vm", 0, "VM", "whose task, where one event began several", 0, COMPLETE_VM, 0}
#define DEVICE {"DEVICE", false, COMPLETE_DEVICE}
#define DEVICE_OPTS \
	{"node", 0, "NODE", "the node that it switches", 0, COMPLETE_NODE, 0}, \
	{"agent", 0, "AGENT", "the fence agent: a file name such as fence_ipmilan", 0, COMPLETE_AGENT, 0}, \
	{"option", 0, "NAME=VALUE", "an option of the agent; may be repeated. 'watari fence agent AGENT' lists them", 0, 0, true}, \
	{"secret", 0, "NAME=FILE", "an option whose value is the first line of this file. The file lies on every node, below " \
		"/etc/watari/secret, and only root can read it (mode 0600); may be repeated", 0, COMPLETE_FILE, true}, \
	{"level", 0, "NUMBER", "1 to 4: lower ones are tried first (default 1). All devices of one level must succeed, as with " \
		"two power supplies", 0, 0, 0}, \
	{"limit", 0, "SECONDS", "for one attempt, from the first question to the proof: 1s to 120s (default 20s)", 0, 0, 0}, \
	{"delay", 0, "SECONDS", "wait so long before the attempt, at most 60s: the node that this device switches wins a race of two halves", 0, 0, 0}, \
	{"no-check", 0, NULL, "do not hold the options against the agent on this node", 0, 0, 0}
#define DEFINITION_OPTS \
	{"memory", 'm', "SIZE", "RAM: 512M, 2G", 0, 0, 0}, \
	{"vcpus", 'c', "COUNT", "virtual CPUs (default 1)", 0, 0, 0}, \
	{"disk", 'd', "DISK", "PATH[,format=raw|qcow2][,bus=virtio|sata][,readonly]; may be repeated. The path must be " \
		"the same on every node. A path that ends in .qcow2 has that format, any other is raw", \
		0, COMPLETE_FILE, true}, \
	{"network", 'N', "NETWORK", "BRIDGE[,model=virtio|e1000][,mac=ADDRESS]; may be repeated. The bridge has the same " \
		"name on every node", 0, 0, true}, \
	{"kernel", 0, "PATH", "boot this Linux kernel directly", 0, COMPLETE_FILE, 0}, \
	{"initrd", 0, "PATH", "with this initial ramdisk", 0, COMPLETE_FILE, 0}, \
	{"append", 0, "TEXT", "and this kernel command line", 0, 0, 0}, \
	{"machine", 0, "TYPE", "versioned machine type (default pc-q35-7.2)", 0, 0, 0}, \
	{"cpu", 0, "MODEL", "CPU model (default qemu64)", 0, 0, 0}, \
	{"priority", 0, "LEVEL", "which VMs come first when there is not room for all: high, medium (the default), low; none: it is never started by itself", \
		"high medium low none", 0, 0}, \
	{"offline-action", 0, "ACTION", "what happens to it when its node is shut down", \
		"save shutdown shutdown-forced turn-off", 0, 0}, \
	{"preferred", 0, "NODES", "n1,n2: the first of these that can take it; none", 0, COMPLETE_NODES, 0}, \
	{"possible", 0, "NODES", "n1,n2: it runs nowhere else; all", 0, COMPLETE_NODES, 0}, \
	{"anti-affinity", 0, "LABEL", "LABEL[:soft|:hard]: VMs with the same label keep apart; hard: rather stay down than run " \
		"beside another; none", 0, 0, 0}, \
	{"restart-max", 0, "COUNT", "restarts of a guest that died on one node within --restart-period, then another node " \
		"(default 1)", 0, 0, 0}, \
	{"restart-period", 0, "SPAN", "the time in which they are counted: 90s, 15m (the default), 2h", 0, 0, 0}, \
	{"retry-after", 0, "SPAN", "used up on all nodes: failed, and tried again after this (default 1h; 0: never)", 0, 0, 0}, \
	{"failback", 0, "WHEN", "back to a preferred owner: never (the default), now, or 22-4: between these hours, UTC", \
		0, 0, 0}, \
	{"start-order", 0, "NUMBER", "1 is first: a VM waits for those with a lower one; 0: waits for none", 0, 0, 0}, \
	{"start-delay", 0, "SPAN", "when it runs, those with a higher order wait so much longer", 0, 0, 0}, \
	{"on-panic", 0, "ACTION", "what becomes of a guest whose kernel panics: restart (the default; within the budget), stop, " \
		"or pause to look at it", "restart stop pause", 0, 0}, \
	{"heartbeat", 0, "SPAN", "a guest whose agent (qemu-guest-agent) has answered and then does not for so long is restarted, " \
		"within the budget: 10s to 1h; 0: not asked (the default)", 0, 0, 0}, \
	{"guest-agent", 0, "CHANNEL", "the agent's channel in the machine: virtio (virtio-serial), none. A creation with " \
		"--heartbeat adds it; later it is added while the VM is off", "virtio none", 0, 0}, \
	{"file", 'f', "FILE", "take the definition from this file, or from stdin where it is '-'; the other options are " \
		"applied on top", 0, COMPLETE_FILE, 0}

const struct noun cli_nouns[] = {
	{"cluster", "the cluster as a whole",
		"What concerns all nodes at once. 'watari status' shows it on one page."},
	{"node", "the servers of the cluster",
		"A node is a server that takes part in the cluster. It is online when it is in the quorate membership and has "
		"told what it can do (memory, CPUs, bridges); lost when it has left the membership; "
		"dead when there is proof that it cannot run its VMs any more, which may then be started elsewhere."},
	{"fence", "fence devices: what turns a lost node off",
		"When a node is lost, its VMs are started elsewhere only after proof that it cannot run them any more. A fence device "
		"gives that proof: it switches the node off and reads back that it is off. A device is one of the ClusterLabs fence "
		"agents (fence_ipmilan, fence_apc_snmp and many more) with its options. See fencing.md among the documents."},
	{"vm", "virtual machines: define, start, move, save",
		"A virtual machine is known to the whole cluster: its definition is replicated, and every node can start it. It "
		"runs on one node at a time. A quick migration saves the guest's memory to shared storage while the guest runs, "
		"stops it for a moment, and lets it run on elsewhere in the same state to the last byte."},
	{"task", "what is under way, and what was",
		"Whatever takes time is a task with a number: a start, a shutdown, a move. Tasks go on when the command that "
		"began them has ended, and when any daemon is restarted."},
	{"api", "the calls behind this program",
		"This program and the web console make the same calls over the daemon's socket: JSON lines, documented by "
		"the daemon itself."},
};
const size_t cli_noun_count = ARRAY_SIZE(cli_nouns);

const struct verb cli_verbs[] = {
	{.name = "status", .run = run_status, .summary = "the whole cluster on one page",
		.text = "Shows whether this node is in a quorate cluster and knows its current state, all nodes, all VMs, and the "
			"tasks under way. Where something is wrong it says what, and what is being waited for.",
		.examples = {"watari status", "watari status -o json"}},
	{.name = "watch", .run = run_watch, .summary = "stream changes and progress until interrupted",
		.opts = {{"vm", 0, "VM", "only news of this VM", 0, COMPLETE_VM, 0}},
		.examples = {"watari watch", "watari watch --vm web -o json"}},
	{.name = "why", .operands = {{"vm/NAME|node/NAME", false, COMPLETE_WHY}}, .run = run_why,
		.summary = "the chain of causes that led to what a VM or a node is now",
		.text = "Out of the cluster's log, the same on every node: what happened, which fact decided it, what followed. For "
			"a VM it goes back to where it last ran undisturbed (for a quarter of an hour), or to the order that set it off; for "
			"a node to where it was last online, for one that is quarantined to the first of the times that it left.",
		.examples = {"watari why vm/web", "watari why node/n2"}},
	{.name = "forecast", .run = run_forecast, .summary = "what would become of the VMs if nodes died now",
		.text = "For each node in turn, or for those of --fail together: how its death would be proven, where each of its VMs would "
			"go and in which order, what would not fit and which fact decides it. And how many nodes may die at once, any of "
			"them, so that every VM that should run still does; what limits it: quorum, proof (no fence device, no watchdog), "
			"room (memory) or rules (owners, anti-affinity, CPUs, bridges). It is the cluster's own decision, made on a copy "
			"of its state: it holds as long as the fence devices work and nothing else changes. Nothing is changed by it.",
		.opts = {{"fail", 0, "NODES", "n2,n3: these die at once", 0, COMPLETE_NODES, 0}},
		.examples = {"watari forecast", "watari forecast --fail n2", "watari forecast --fail n2,n3 -o json"}},
	{.name = "log", .run = run_log, .summary = "what happened, and why",
		.text = "Every change of the cluster is in its log with its reason: who asked, or which report decided.",
		.opts = {
			{"since", 'S', "TIME", "only what is newer: 10:02, 10m, '5 min ago', '2024-05-01 12:00'", 0, 0, 0},
			{"lines", 'l', "COUNT", "at most so many, the newest (default 50, at most 1000)", 0, 0, 0},
			{"vm", 0, "VM", "only lines about this VM", 0, COMPLETE_VM, 0},
			{"node", 0, "NODE", "only lines about this node, about a VM that it owns then, or that name it", 0, COMPLETE_NODE, 0},
			{"follow", 'f', NULL, "go on with what happens from now", 0, 0, 0}},
		.examples = {"watari log", "watari log --since 2h --vm web", "watari log --since 10:02 --node n3",
			"watari log --since '5 min ago' -f"}},

	{.noun = "cluster", .name = "force-quorum", .run = run_force_quorum, .changes = true,
		.summary = "go on without a majority, when the other nodes never come back",
		.text = "A cluster without a majority of its nodes changes nothing, since the others may be going on without it. "
			"When they are lost for good, this makes the nodes that are left a quorum. What you risk: (1) what the "
			"others committed last, and these nodes do not know, is lost; (2) if the others are alive and quorum is "
			"forced there too, both sides change the cluster apart, and only one side's changes are kept. What you do "
			"not risk: a VM of a lost node is still not started before that node is proven off ('watari node "
			"confirm-off', or its fence device). Corosync goes back to counting a majority by itself when the others "
			"return. Run it on one node, with that node's own name typed after --yes. --dry-run (or no --yes) says who would "
			"go on without whom.",
		.opts = {{"yes", 'y', "NODE", "this node's name: you have read what you risk", 0, COMPLETE_NODE, 0}},
		.examples = {"watari cluster force-quorum --dry-run", "watari cluster force-quorum --yes n1"}},

	{.noun = "node", .name = "list", .run = run_node_list, .summary = "all nodes with their memory and VMs",
		.examples = {"watari node list", "watari node list -o json"}},
	{.noun = "node", .name = "show", .operands = {{"NODE", false, COMPLETE_NODE}}, .run = run_node_show,
		.summary = "everything about one node", .examples = {"watari node show n2"}},

	{.noun = "node", .name = "fence", .operands = {{"NODE", false, COMPLETE_NODE}}, .run = run_node_fence, .changes = true,
		.summary = "switch a lost node off now, by its fence devices",
		.text = "The cluster does this by itself when a node is lost that has VMs. This is for a node that it leaves alone: only "
			"its daemon is away, it had no VM, or the limits say that it is enough. A node that is online is not fenced: "
			"move its VMs away and shut it down.",
		.opts = {{"force", 0, NULL, "also past the limits: when that makes more than a minority, or the sixth time within an hour", 0, 0, 0}},
		.examples = {"watari node fence n3", "watari node fence n3 --force"}},
	{.noun = "node", .name = "resume", .operands = {{"NODE", false, COMPLETE_NODE}}, .run = run_node_resume, .changes = true,
		.summary = "end a node's quarantine now, and forget what was counted against it",
		.text = "A node that leaves the cluster three times within an hour is quarantined: nothing is placed there, and its VMs "
			"are moved away. It ends by itself after an hour of stability; this ends it at once. It also forgets how "
			"often the node left and was fenced within the hour: say it once the reason is mended.",
		.examples = {"watari node resume n2"}},
	{.noun = "node", .name = "confirm-off", .operands = {{"NODE", false, COMPLETE_NODE}}, .run = run_node_confirm_off,
		.changes = true,
		.summary = "your word that a lost node is off",
		.text = "For a node that is lost and cannot be fenced. Its VMs are started elsewhere at once. Go there and look: if it "
			"runs on, its VMs run twice and destroy their disks. Refused while the node is seen alive; who said it is kept "
			"in the log.",
		.opts = {{"yes", 'y', "NODE", "its name, typed: you have seen that it is off", 0, COMPLETE_NODE, 0}},
		.examples = {"watari node confirm-off n3 --yes n3"}},

	{.noun = "fence", .name = "list", .run = run_fence_list, .summary = "all fence devices",
		.examples = {"watari fence list", "watari fence list -o json"}},
	{.noun = "fence", .name = "show", .operands = {DEVICE}, .run = run_fence_show, .summary = "one fence device with its options",
		.examples = {"watari fence show ipmi-n3"}},
	{.noun = "fence", .name = "add", .operands = {{"DEVICE"}}, .run = run_fence_add, .changes = true,
		.summary = "define a fence device",
		.text = "The options are held against what the agent says of itself (its metadata) on this node first. A password is "
			"never given as an option: it would be kept in the cluster's log. Write it to a file on every node instead and "
			"name that file with --secret.",
		.opts = {DEVICE_OPTS},
		.examples = {
			"watari fence add ipmi-n3 --node n3 --agent fence_ipmilan --option ip=10.0.0.3 --option username=admin "
				"--option lanplus=1 --secret password=/etc/watari/secret/ipmi-n3",
			"watari fence add pdu-n3 --node n3 --agent fence_apc_snmp --option ip=10.0.0.9 --option plug=3 --level 2"}},
	{.noun = "fence", .name = "agent", .operands = {{"AGENT", false, COMPLETE_AGENT}}, .run = run_fence_agent,
		.summary = "what options a fence agent has, in its own words",
		.text = "Out of the agent's metadata, on this node. What watari itself says to an agent, or refuses, is left out.",
		.examples = {"watari fence agent fence_ipmilan", "watari fence agent fence_apc_snmp -o json"}},
	{.noun = "fence", .name = "set", .operands = {DEVICE}, .run = run_fence_set, .changes = true,
		.summary = "change a fence device; one that was distrusted is used again",
		.text = "What is not named stays as it is.",
		.opts = {DEVICE_OPTS, {"remove", 0, "NAME", "take this option of the agent away; may be repeated", 0, 0, true}},
		.examples = {"watari fence set ipmi-n3 --option ip=10.0.0.13", "watari fence set ipmi-n3 --limit 40s --remove lanplus"}},
	{.noun = "fence", .name = "remove", .operands = {DEVICE}, .run = run_fence_remove, .changes = true,
		.summary = "forget a fence device", .examples = {"watari fence remove pdu-n3"}},
	{.noun = "fence", .name = "check", .operands = {DEVICE}, .run = run_fence_check,
		.summary = "hold its options against its agent on this node",
		.text = "Reads the agent's metadata and the secrets' files; touches no machine. Says of each option that is set what the "
			"agent means by it. Any node may have to fence: run it on each.",
		.examples = {"watari fence check ipmi-n3"}},
	{.noun = "fence", .name = "status", .operands = {DEVICE}, .run = run_fence_status,
		.summary = "ask the device, from this node, whether its node has power", .examples = {"watari fence status ipmi-n3"}},
	{.noun = "fence", .name = "test", .operands = {DEVICE}, .run = run_fence_test, .changes = true,
		.summary = "prove which machine a fence device switches",
		.text = "Without --off compares what the device says with what the cluster sees. That finds a device that does not "
			"answer, and one that says off about a node that runs; not one that is wired to another machine that runs. "
			"With --off switches the node off, watches that this node and no other leaves the membership, and switches it on "
			"again. Refused unless all nodes are online and the node to be switched off has no VM; --off --dry-run only asks "
			"that. Run it on another node.",
		.opts = {
			{"off", 0, NULL, "pull the cord", 0, 0, 0},
			{"yes", 'y', "NODE", "the name of the node that will lose its power", 0, COMPLETE_NODE, 0}},
		.examples = {"watari fence test ipmi-n3", "watari fence test ipmi-n3 --off --dry-run",
			"watari fence test ipmi-n3 --off --yes n3"}},

	{.noun = "vm", .name = "list", .run = run_vm_list, .summary = "all VMs: state, node, size",
		.opts = {
			{"state", 0, "STATE", "only those in this state",
				"off starting online stopping moving saving saved restoring blocked failed", 0, 0},
			{"node", 0, "NODE", "only those on this node", 0, COMPLETE_NODE, 0}},
		.examples = {"watari vm list", "watari vm list --state online --node n1", "watari vm list -o json"}},
	{.noun = "vm", .name = "show", .operands = {VM}, .run = run_vm_show, .summary = "everything about one VM",
		.text = "With --definition prints the definition as JSON, in the form that 'vm create --file' and 'vm edit --file' "
			"take. To make a copy of a VM take out its uuid and its MACs.",
		.opts = {{"definition", 'D', NULL, "print the definition alone, as JSON", 0, 0, 0}},
		.examples = {"watari vm show web", "watari vm show web --definition > web.json"}},
	{.noun = "vm", .name = "create", .operands = {{"NAME", true, COMPLETE_NONE}}, .run = run_vm_create, .changes = true,
		.summary = "define a VM",
		.text = "Defines a VM and pins its machine type, CPU model, addresses and slots, so that every node builds exactly the "
			"same machine. It is off until it is started. The name has 1 to 63 characters of a-z, A-Z, 0-9, '.', '_' and "
			"'-', the first a letter or a digit.",
		.opts = {DEFINITION_OPTS, {"start", 0, NULL, "start it at once", 0, 0, 0}},
		.examples = {
			"watari vm create web --memory 2G --vcpus 2 --disk /srv/vm/web.qcow2 --network br0",
			"watari vm create tiny --memory 256M --kernel /srv/vm/vmlinuz --initrd /srv/vm/initrd --append console=ttyS0",
			"watari vm create --file web.json",
			"watari vm create web2 --file web.json --memory 4G --dry-run",
			"watari vm create db --memory 4G --disk /srv/vm/db.qcow2 --priority high --preferred n1,n2 --failback 22-4 "
				"--anti-affinity db:hard --start-order 1 --start-delay 30s"}},
	{.noun = "vm", .name = "edit", .operands = {VM}, .run = run_vm_edit, .changes = true,
		.summary = "change the definition of a VM",
		.text = "What its machine is built of may change while it is off; its policy (priority, offline action, owners, "
			"anti-affinity, restarts, failback, start order and delay, panic, heartbeat) at any time. With options changes what they name: --disk and --network add a device, --remove takes one away by its id. "
			"Without any opens the definition as JSON in $VISUAL or $EDITOR. An edit that somebody else made in the "
			"meantime is not overwritten.",
		.opts = {DEFINITION_OPTS,
			{"remove", 0, "ID", "take away the disk or network with this id (disk0, net0)", 0, 0, true},
			{"name", 0, "NAME", "give it another name", 0, 0, 0}},
		.examples = {"watari vm edit web --memory 4G --vcpus 4",
			"watari vm edit web --priority high --preferred n1,n2 --failback now --restart-max 3",
			"watari vm edit web --possible all --anti-affinity none", "watari vm edit web --remove disk1",
			"EDITOR=nano watari vm edit web"}},
	{.noun = "vm", .name = "start", .operands = {VM}, .run = run_vm_start, .changes = true, .has_task = true,
		.summary = "start a VM; a saved one goes on where it was",
		.text = "Starts the VM on the node with the most free memory, or where --on says. A VM that was saved is restored: its "
			"guest goes on in the same state. With --discard-state the saved memory is thrown away and the guest boots, "
			"as after a power cut.",
		.opts = {
			{"on", 0, "NODE", "start it there", 0, COMPLETE_NODE, 0},
			{"discard-state", 0, NULL, "throw the saved memory away and boot", 0, 0, 0}},
		.examples = {"watari vm start web", "watari vm start web --on n2", "watari vm start web --discard-state"}},
	{.noun = "vm", .name = "shutdown", .operands = {VM}, .run = run_vm_shutdown, .changes = true, .has_task = true,
		.summary = "ask the guest to power itself off",
		.text = "Presses the virtual power button. A guest that does not listen goes on; 'vm stop' ends it. A VM that does not "
			"run, and waits to be started by itself, is not started any more, as by 'vm stop'.",
		.examples = {"watari vm shutdown web", "watari vm shutdown web --timeout 60"}},
	{.noun = "vm", .name = "stop", .operands = {VM}, .run = run_vm_stop, .changes = true, .has_task = true,
		.summary = "power off at once, like pulling the cord",
		.text = "What the guest has not written to its disks is lost. 'vm shutdown' is gentler. A VM that does not run, and waits "
			"to be started by itself (for room, for its turn, or for another try), is not started any more until "
			"'vm start'; a saved state stays where it is.",
		.examples = {"watari vm stop web"}},
	{.noun = "vm", .name = "save", .operands = {VM}, .run = run_vm_save, .changes = true, .has_task = true,
		.summary = "save the guest's memory to shared storage and power off",
		.text = "'vm start' lets it go on, on any node, in the same state.",
		.examples = {"watari vm save web", "watari vm save web && watari vm start web --on n3"}},
	{.noun = "vm", .name = "move", .operands = {VM}, .run = run_vm_move, .changes = true, .has_task = true,
		.summary = "move a running VM to another node",
		.text = "A quick migration: the guest's memory is saved to shared storage while it runs; it stops for a moment, and "
			"runs on at the target in the same state. Before anything stops the target proves that it can take the VM; "
			"with --dry-run that is all that happens. A move that fails leaves the guest running where it was. At the "
			"end the phases are shown with their times; the blackout is the time in which the guest did not run.",
		.opts = {
			{"to", 0, "NODE", "the target", 0, COMPLETE_NODE, 0},
			{"type", 0, "TYPE", "how: quick (the default)", "quick", 0, 0}},
		.examples = {"watari vm move web --to n2", "watari vm move web --type quick --to n2 --dry-run",
			"watari vm move web --to n2 --no-wait"}},
	{.noun = "vm", .name = "cancel", .operands = {VM}, .run = run_vm_cancel, .changes = true,
		.summary = "stop the move or save that is under way; the guest runs on",
		.text = "Possible until the guest has been stopped and its state sealed; from there on the move goes to its end.",
		.examples = {"watari vm cancel web"}},
	{.noun = "vm", .name = "console", .operands = {VM}, .run = run_vm_console,
		.summary = "the serial console, on the node where the VM runs",
		.text = "Ctrl-] leaves it. The console is a socket of the node on which the VM runs; on another node this says where to "
			"go.",
		.examples = {"watari vm console web"}},
	{.noun = "vm", .name = "delete", .operands = {VM}, .run = run_vm_delete, .changes = true,
		.summary = "forget a VM that is off; its disks stay",
		.text = "On a terminal asks first. Elsewhere --yes is needed (exit status 107 without it). Disk images are never "
			"touched; a saved memory is deleted with the VM.",
		.opts = {{"yes", 'y', NULL, "do not ask", 0, 0, 0}},
		.examples = {"watari vm delete web", "watari vm delete web --yes"}},

	{.noun = "task", .name = "list", .run = run_task_list, .summary = "the newest tasks",
		.opts = {
			{"running", 'r', NULL, "only those under way", 0, 0, 0},
			{"vm", 0, "VM", "only those of this VM", 0, COMPLETE_VM, 0}},
		.examples = {"watari task list", "watari task list --running", "watari task list --vm web -o json"}},
	{.noun = "task", .name = "show", .operands = {{"TASK", false, COMPLETE_TASK}}, .run = run_task_show,
		.summary = "one task: how it ended, phases with times", .opts = {OF_VM},
		.text = "One event may begin the tasks of several VMs, which then have the same number: name the VM.",
		.examples = {"watari task show 42", "watari task show 42 --vm web"}},
	{.noun = "task", .name = "wait", .operands = {{"TASK", false, COMPLETE_TASK}}, .run = run_task_wait,
		.summary = "wait for a task with progress, exit as it ends",
		.opts = {OF_VM, {"timeout", 't', "SECONDS", "give up waiting after this (exit status 124)", 0, 0, 0}},
		.examples = {"watari task wait 42", "watari task wait 42 --timeout 60"}},

	{.noun = "api", .name = "list", .run = run_api_list, .summary = "all calls with their arguments",
		.examples = {"watari api list", "watari api list -o json"}},
};
/* clang-format on */
const size_t cli_verb_count = ARRAY_SIZE(cli_verbs);
