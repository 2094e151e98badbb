/* SPDX-License-Identifier: Apache-2.0
 * The parts of the QEMU driver that need no QEMU: its command line, the monitor's protocol, the locks by which a process
 * is known, image headers, saved states' directories. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "driver/linux/loop_sd.h"
#include "driver/qemu/argv.h"
#include "driver/qemu/hot_list.h"
#include "driver/qemu/media.h"
#include "base/process.h"
#include "driver/qemu/qmp.h"
#include "driver/qemu/record.h"
#include "driver/qemu/state_store.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* The command line. */

static struct vm_def example(void)
{
	struct vm_def def = {.memory_mib = 512, .vcpus = 2, .disk_count = 2, .nic_count = 1};

	strcpy(def.uuid, "5b1f9d9e-0000-4000-8000-000000000001");
	strcpy(def.name, "web");
	strcpy(def.kernel, "/srv/vmlinuz");
	strcpy(def.append, "console=ttyS0 root=/dev/vda,x");
	strcpy(def.disks[0].path, "/srv/web.raw");
	strcpy(def.disks[1].path, "/srv/data.qcow2");
	def.disks[1].format = DISK_QCOW2;
	def.disks[1].read_only = true;
	strcpy(def.nics[0].bridge, "br0");
	strcpy(def.nics[0].mac, "52:54:00:00:00:01");
	vm_def_pin(&def);
	return def;
}

static char *joined(const struct argv *argv)
{
	static char text[16384];
	size_t at = 0;

	for (uint32_t i = 0; i < argv->count; i++)
		at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s", argv->words[i],
			i + 1 < argv->count ? "\n" : "");
	assert_true(at < sizeof(text));
	return text;
}

/* Another word here is another machine: a state saved by an older version would not load. */
static void the_command_line_is_this_one(void **state)
{
	static const char *const golden =
		"/usr/bin/qemu-system-x86_64\n"
		"-name\nguest=web,debug-threads=on\n"
		"-uuid\n5b1f9d9e-0000-4000-8000-000000000001\n"
		"-machine\npc-q35-7.2,accel=tcg,memory-backend=ram,usb=off,dump-guest-core=off\n"
		"-object\nmemory-backend-memfd,id=ram,size=512M,share=on\n"
		"-m\nsize=512M\n"
		"-cpu\nqemu64\n"
		"-smp\ncpus=2,sockets=1,cores=2,threads=1\n"
		"-rtc\nbase=utc\n"
		"-nodefaults\n-no-user-config\n"
		"-sandbox\non,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny\n"
		"-action\nreboot=reset,shutdown=pause,panic=pause,watchdog=reset\n"
		"-msg\ntimestamp=on\n"
		"-chardev\nsocket,id=qmp,fd=3,server=on,wait=off\n"
		"-mon\nchardev=qmp,mode=control\n"
		"-add-fd\nfd=5,set=5\n"
		"-chardev\nsocket,id=serial0,fd=4,server=on,wait=off,logfile=/dev/fdset/5,logappend=on\n"
		"-device\nisa-serial,id=serial0.dev,chardev=serial0\n"
		"-device\nVGA,id=vga,bus=pcie.0,addr=0x1\n"
		"-vnc\nunix:/run/watari/vm/x/guest/vnc.sock\n"
		"-boot\nmenu=off,strict=on\n"
		"-kernel\n/proc/self/fd/6\n"
		"-append\nconsole=ttyS0 root=/dev/vda,x\n"
		"-add-fd\nfd=8,set=8\n"
		"-blockdev\n{\"driver\":\"file\",\"node-name\":\"disk0.file\",\"filename\":\"/dev/fdset/8\",\"aio\":\"native\","
		"\"read-only\":false,\"auto-read-only\":false,\"discard\":\"unmap\",\"cache\":{\"direct\":true,"
		"\"no-flush\":false}}\n"
		"-blockdev\n{\"driver\":\"raw\",\"node-name\":\"disk0\",\"file\":\"disk0.file\",\"read-only\":false,"
		"\"auto-read-only\":false,\"discard\":\"unmap\",\"cache\":{\"direct\":true,\"no-flush\":false}}\n"
		"-device\nvirtio-blk-pci,id=disk0.dev,drive=disk0,bus=pcie.0,addr=0x3,bootindex=1,serial=disk0,write-cache=on,"
		"werror=stop,rerror=stop\n"
		"-add-fd\nfd=9,set=9\n"
		"-blockdev\n{\"driver\":\"host_device\",\"node-name\":\"disk1.file\",\"filename\":\"/dev/fdset/9\","
		"\"aio\":\"threads\",\"read-only\":true,\"auto-read-only\":false,\"discard\":\"unmap\",\"cache\":{"
		"\"direct\":false,\"no-flush\":false}}\n"
		"-blockdev\n{\"driver\":\"qcow2\",\"node-name\":\"disk1\",\"file\":\"disk1.file\",\"read-only\":true,"
		"\"auto-read-only\":false,\"discard\":\"unmap\",\"cache\":{\"direct\":false,\"no-flush\":false},"
		"\"backing\":null}\n"
		"-device\nvirtio-blk-pci,id=disk1.dev,drive=disk1,bus=pcie.0,addr=0x4,bootindex=2,serial=disk1,write-cache=on,"
		"werror=stop,rerror=stop\n"
		"-netdev\ntap,id=net0,fd=16\n"
		"-device\nvirtio-net-pci,id=net0.dev,netdev=net0,mac=52:54:00:00:00:01,bus=pcie.0,addr=0x5,romfile=";
	struct vm_def def = example();
	struct argv_facts facts = {.binary = "/usr/bin/qemu-system-x86_64",
		.vnc_path = "/run/watari/vm/x/guest/vnc.sock",
		.direct = {true, false},
		.block_device = {false, true}};
	struct argv argv;

	(void)state;
	argv_build(&def, &facts, &argv);
	assert_string_equal(joined(&argv), golden);
	assert_null(argv.words[argv.count]);
	argv_fini(&argv);
}

/* The target differs in nothing but that it waits. */
static void a_standby_is_the_same_machine(void **state)
{
	struct vm_def def = example();
	struct argv_facts facts = {.binary = "/q", .vnc_path = "/v"};
	struct argv source, target;

	(void)state;
	argv_build(&def, &facts, &source);
	facts.incoming = true;
	argv_build(&def, &facts, &target);
	assert_int_equal(target.count, source.count + 3);
	for (uint32_t i = 0; i < source.count; i++)
		assert_string_equal(source.words[i], target.words[i]);
	assert_string_equal(target.words[source.count], "-S");
	argv_fini(&source);
	argv_fini(&target);
}

/* D1: nothing that a person wrote becomes another option. The checks would refuse most of it; this holds without. */
static void texts_stay_texts(void **state)
{
	struct vm_def def = example();
	struct argv_facts facts = {.binary = "/q", .vnc_path = "/run/a,b"};
	struct argv argv;

	(void)state;
	strcpy(def.name, "a,debug-threads=off");
	strcpy(def.append, "-monitor stdio");
	argv_build(&def, &facts, &argv);
	char *text = joined(&argv);
	assert_non_null(strstr(text, "guest=a,,debug-threads=off,debug-threads=on\n"));
	assert_non_null(strstr(text, "-append\n-monitor stdio\n"));
	assert_non_null(strstr(text, "unix:/run/a,,b\n"));
	argv_fini(&argv);
}

/* A definition of before has none, and its saved states must fit for ever. */
static void a_panic_device_is_where_the_definition_says(void **state)
{
	struct vm_def def = example();
	struct argv_facts facts = {.binary = "/q", .vnc_path = "/v"};
	struct argv argv;

	(void)state;
	argv_build(&def, &facts, &argv);
	assert_null(strstr(joined(&argv), "pvpanic"));
	argv_fini(&argv);
	def.panic_device = PANIC_DEVICE_ISA;
	argv_build(&def, &facts, &argv);
	assert_non_null(strstr(joined(&argv), "-device\npvpanic,id=panic\n"));
	argv_fini(&argv);
}

/* Its slot is kept free for it: no other device of the machine moves. */
static void an_agents_channel_is_where_the_definition_says(void **state)
{
	struct vm_def def = example();
	struct argv_facts facts = {.binary = "/q", .vnc_path = "/v"};
	struct argv without, with;

	(void)state;
	argv_build(&def, &facts, &without);
	def.guest_agent = GUEST_AGENT_VIRTIO;
	argv_build(&def, &facts, &with);
	assert_null(strstr(joined(&without), "serialport"));
	const char *words = joined(&with);
	assert_non_null(strstr(words, "-device\nvirtio-serial-pci,id=vserial,bus=pcie.0,addr=0x2,max_ports=2\n"));
	assert_non_null(strstr(words, ",chardev=agent,name=org.qemu.guest_agent.0\n"));
	uint32_t added = with.count - without.count;
	for (uint32_t i = 0, j = 0; i < without.count; i++, j++) {
		if (strcmp(without.words[i], with.words[j]) != 0)
			j += added;
		assert_string_equal(without.words[i], with.words[j]);
	}
	argv_fini(&without);
	argv_fini(&with);
}

static void kvm_keeps_huge_pages_and_demands_its_cpu(void **state)
{
	struct vm_def def = example();
	struct argv_facts facts = {.binary = "/q", .vnc_path = "/v", .accel = ARGV_KVM};
	struct argv argv;

	(void)state;
	argv_build(&def, &facts, &argv);
	char *text = joined(&argv);
	assert_non_null(strstr(text, "memory-backend-ram,id=ram,size=512M\n"));
	assert_non_null(strstr(text, "-cpu\nqemu64,enforce=on\n"));
	argv_fini(&argv);
}

/* The largest definition that passes the checks fits. */
static void the_largest_definition_fits(void **state)
{
	struct vm_def def = example();
	struct argv_facts facts = {.binary = "/q", .vnc_path = "/v", .incoming = true};
	struct argv argv;
	struct err err;

	(void)state;
	strcpy(def.initrd, "/srv/initrd");
	def.disk_count = VM_DISKS_MAX;
	def.nic_count = VM_NICS_MAX;
	for (uint32_t i = 2; i < VM_DISKS_MAX; i++)
		snprintf(def.disks[i].path, sizeof(def.disks[i].path), "/srv/%u", i);
	for (uint32_t i = 1; i < VM_NICS_MAX; i++) {
		strcpy(def.nics[i].bridge, "br0");
		snprintf(def.nics[i].mac, sizeof(def.nics[i].mac), "52:54:00:00:01:%02x", i);
	}
	vm_def_pin(&def);
	assert_int_equal(vm_def_check(&def, &err), 0);
	argv_build(&def, &facts, &argv);
	assert_true(argv.count < ARGV_WORDS_MAX);
	argv_fini(&argv);
}

/* The monitor. */

static void clamps(const char *from, const char *to)
{
	char text[256];

	snprintf(text, sizeof(text), "%s", from);
	qmp_clamp_integers(text, strlen(text));
	assert_string_equal(text, to);
}

/* QEMU tells sizes as unsigned 64-bit numbers, which jansson refuses: one such number would cost the monitor. */
static void integers_beyond_int64_are_clamped(void **state)
{
	(void)state;
	clamps("{\"a\": 18446744073709551615}", "{\"a\":  9223372036854775807}");
	clamps("{\"a\":9223372036854775808,\"b\":1}", "{\"a\":9223372036854775807,\"b\":1}");
	clamps("{\"a\":9223372036854775807}", "{\"a\":9223372036854775807}");
	clamps("[-9223372036854775808,-9223372036854775809]", "[-9223372036854775808,-9223372036854775808]");
	clamps("[123456789012345678901234567890]", "[           9223372036854775807]");
	clamps("{\"18446744073709551615\":\"18446744073709551615\"}", "{\"18446744073709551615\":\"18446744073709551615\"}");
	clamps("{\"a\\\"18446744073709551615\":18446744073709551615}", "{\"a\\\"18446744073709551615\": 9223372036854775807}");
	clamps("[18446744073709551615.5, 18446744073709551615e2]", "[18446744073709551615.5, 18446744073709551615e2]");
	clamps("[0.18446744073709551615]", "[0.18446744073709551615]");
	clamps("-", "-");
	clamps("18446744073709551615", " 9223372036854775807");
}

struct monitor {
	struct loop *loop;
	struct qmp *qmp;
	int peer;
	uint32_t ready, replies, closed, events;
	enum err_code code;
	char text[512];
	uint64_t at_us;
	bool free_in_reply;
};

static void on_ready(void *ctx)
{
	((struct monitor *)ctx)->ready++;
}

static void on_event(void *ctx, const char *name, const json_t *data, uint64_t at_us)
{
	struct monitor *monitor = ctx;

	assert_true(json_is_object(data));
	monitor->events++;
	monitor->at_us = at_us;
	snprintf(monitor->text, sizeof(monitor->text), "%s", name);
}

static void on_closed(void *ctx, const struct err *err)
{
	struct monitor *monitor = ctx;

	monitor->closed++;
	monitor->code = err->code;
	loop_sd_exit(monitor->loop, 0);
}

static void on_reply(void *ctx, const json_t *result, const struct err *err)
{
	struct monitor *monitor = ctx;

	monitor->replies++;
	monitor->code = result ? ERR_NONE : err->code;
	snprintf(monitor->text, sizeof(monitor->text), "%s", result ? json_string_value(json_object_get(result, "s")) : err->text);
	if (monitor->free_in_reply)
		qmp_free(STEAL(monitor->qmp));
	loop_sd_exit(monitor->loop, 0);
}

static void monitor_init(struct monitor *monitor)
{
	struct err err;
	int ends[2];

	memset(monitor, 0, sizeof(*monitor));
	monitor->loop = loop_sd_new(&err);
	assert_non_null(monitor->loop);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	monitor->peer = ends[1];
	monitor->qmp = qmp_new(monitor->loop, ends[0],
		&(struct qmp_callbacks){.ctx = monitor, .ready = on_ready, .event = on_event, .closed = on_closed});
}

static void monitor_fini(struct monitor *monitor)
{
	qmp_free(monitor->qmp);
	loop_sd_free(monitor->loop);
	cleanup_fd_(&monitor->peer);
}

static void peer_says(struct monitor *monitor, const char *text)
{
	assert_int_equal(write(monitor->peer, text, strlen(text)), strlen(text));
}

/* Runs callbacks until a reply or the end. */
static void monitor_run(struct monitor *monitor)
{
	struct err err;
	int status;

	assert_int_equal(loop_sd_run(monitor->loop, &status, &err), 0);
}

static const char greeting[] = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n{\"return\": {}, \"id\": 2}\r\n";

/* Commands given before the greeting are sent after the negotiation; QEMU counts on that order. */
static void commands_wait_for_the_greeting(void **state)
{
	struct monitor monitor;
	char text[512] = "";

	(void)state;
	monitor_init(&monitor);
	qmp_send(monitor.qmp, "query-status", NULL, -1, 5000, on_reply, &monitor);
	assert_int_equal(read(monitor.peer, text, sizeof(text)), -1);
	peer_says(&monitor, greeting);
	peer_says(&monitor, "{\"id\": 1, \"return\": {\"s\": \"running\", \"n\": 18446744073709551615}}\r\n");
	monitor_run(&monitor);
	assert_int_equal(monitor.ready, 1);
	assert_int_equal(monitor.replies, 1);
	assert_string_equal(monitor.text, "running");
	assert_true(read(monitor.peer, text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "qmp_capabilities"));
	assert_true(strstr(text, "query-status") > strstr(text, "qmp_capabilities"));
	monitor_fini(&monitor);
}

static void an_error_says_what_qemu_said(void **state)
{
	struct monitor monitor;

	(void)state;
	monitor_init(&monitor);
	qmp_send(monitor.qmp, "cont", NULL, -1, 5000, on_reply, &monitor);
	peer_says(&monitor, greeting);
	peer_says(&monitor, "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1700000000, \"microseconds\": 5}}\n"
			    "{\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"no lock\"}}\n");
	monitor_run(&monitor);
	assert_int_equal(monitor.events, 1);
	assert_true(monitor.at_us == UINT64_C(1700000000000005));
	assert_int_equal(monitor.code, ERR_UNFIT);
	assert_string_equal(monitor.text, "QEMU refuses 'cont': no lock");
	monitor_fini(&monitor);
}

/* A command's answer comes once: by the clock when QEMU hangs, and then not a second time. */
static void a_silent_monitor_is_given_up(void **state)
{
	struct monitor monitor;

	(void)state;
	monitor_init(&monitor);
	peer_says(&monitor, greeting);
	qmp_send(monitor.qmp, "query-status", NULL, -1, 30, on_reply, &monitor);
	monitor_run(&monitor);
	assert_int_equal(monitor.code, ERR_TIMEOUT);
	peer_says(&monitor, "{\"id\": 1, \"return\": {}}\n");
	close(STEAL_FD(monitor.peer));
	monitor_run(&monitor);
	assert_int_equal(monitor.replies, 1);
	assert_int_equal(monitor.closed, 1);
	monitor_fini(&monitor);
}

/* What is not QMP ends the connection, and every command is answered before that is told. */
static void garbage_ends_the_connection(void **state)
{
	static const char *const garbage[] = {"{\n", "[1]\n", "{\"a\":1,\"a\":2}\n", "\377\376\n", "{\"return\":{}}}}\n"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(garbage); i++) {
		struct monitor monitor;
		monitor_init(&monitor);
		peer_says(&monitor, greeting);
		qmp_send(monitor.qmp, "query-status", NULL, -1, 5000, on_reply, &monitor);
		peer_says(&monitor, garbage[i]);
		monitor_run(&monitor);
		assert_int_equal(monitor.replies, 1);
		assert_int_equal(monitor.code, ERR_PROTOCOL);
		assert_int_equal(monitor.closed, 1);
		monitor_fini(&monitor);
	}
}

static void a_client_may_be_freed_in_its_own_reply(void **state)
{
	struct monitor monitor;

	(void)state;
	monitor_init(&monitor);
	monitor.free_in_reply = true;
	qmp_send(monitor.qmp, "query-status", NULL, -1, 5000, on_reply, &monitor);
	qmp_send(monitor.qmp, "query-migrate", NULL, -1, 5000, on_reply, &monitor);
	peer_says(&monitor, greeting);
	peer_says(&monitor, "{\"id\": 1, \"return\": {\"s\": \"x\"}}\n{\"id\": 3, \"return\": {}}\n{\"event\": \"STOP\"}\n");
	monitor_run(&monitor);
	assert_int_equal(monitor.replies, 1);
	assert_int_equal(monitor.events, 0);
	assert_int_equal(monitor.closed, 0);
	monitor_fini(&monitor);
}

/* Processes. */

static int temporary_dir(char path[static 64])
{
	snprintf(path, 64, "/tmp/test-qemu-XXXXXX");
	assert_non_null(mkdtemp(path));
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void spawn_cat(int lock_fd, int from, struct process *process)
{
	static const char *const argv[] = {"/bin/cat", NULL};
	CLEANUP_FD int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct spawn spawn = {.binary = argv[0], .argv = argv, .lock_fd = lock_fd, .fd_count = 3,
		.fds = {{from, 0}, {null, 1}, {null, 2}}};
	struct err err;

	assert_int_equal(process_spawn(&spawn, process, &err), 0);
}

static void wait_death(const struct process *process)
{
	struct pollfd poll_fd = {.fd = process->pidfd, .events = POLLIN};

	assert_int_equal(poll(&poll_fd, 1, 10000), 1);
}

/* The daemon is killed right after the fork, before it wrote anything down: the next one still finds the process, and
 * knows when it is dead, whoever has its number then. */
static void a_process_is_known_by_its_lock(void **state)
{
	struct process process, found;
	char path[64], how[80];
	struct err err;
	int ends[2];

	(void)state;
	CLEANUP_FD int dir = temporary_dir(path);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	int lock = process_lock(dir, "lock", &err);
	assert_true(lock >= 0);
	assert_int_equal(process_lock(dir, "lock", &err), -1);
	assert_int_equal(err.code, ERR_BUSY);
	spawn_cat(lock, ends[0], &process);
	close(lock);
	int result;
	while ((result = process_find(dir, "lock", &found, &err)) != 1)
		assert_true(result < 0 && err.code == ERR_BUSY); /* between fork and its first write */
	assert_int_equal(found.pid, process.pid);
	assert_true(found.starttime == process.starttime && found.starttime);
	assert_false(process_dead(&found, how));
	close(ends[1]);
	close(ends[0]);
	wait_death(&found);
	assert_true(process_dead(&process, how));
	assert_true(process_dead(&found, how));
	assert_int_equal(process_find(dir, "lock", &process, &err), 0);
	assert_int_equal(process_find(dir, "none", &process, &err), 0);
	unlinkat(dir, "lock", 0);
	rmdir(path);
}

/* A pid in the file proves nothing. */
static void a_number_without_the_lock_is_nobody(void **state)
{
	struct process process;
	char path[64];
	struct err err;

	(void)state;
	CLEANUP_FD int dir = temporary_dir(path);
	CLEANUP_FD int fd = openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(dprintf(fd, "%d\n", (int)getpid()) > 0);
	assert_int_equal(process_find(dir, "lock", &process, &err), 0);
	unlinkat(dir, "lock", 0);
	rmdir(path);
}

/* A child has what it was given and nothing else: no descriptor of the daemon's, no core, its own session. */
static void a_child_inherits_only_what_it_is_given(void **state)
{
	static const char *const argv[] = {"/bin/sh", "-c",
		"ls /proc/self/fd | wc -l; ulimit -c; ulimit -n; env | wc -l; grep NoNewPrivs /proc/self/status", NULL};
	struct process process;
	char text[256] = "", how[80];
	struct err err;
	int ends[2];

	(void)state;
	assert_int_equal(pipe2(ends, 0), 0); /* without O_CLOEXEC: somebody's mistake */
	CLEANUP_FD int null = open("/dev/null", O_RDWR);
	struct spawn spawn = {.binary = argv[0], .argv = argv, .lock_fd = -1, .fd_count = 3,
		.fds = {{null, 0}, {ends[1], 1}, {null, 2}}};
	assert_int_equal(process_spawn(&spawn, &process, &err), 0);
	wait_death(&process);
	assert_true(read(ends[0], text, sizeof(text) - 1) > 0);
	/* ls has 0, 1, 2 and the directory; sh adds PWD and such to the two variables that it got. */
	unsigned fds, core, files, variables;
	assert_int_equal(sscanf(text, "%u %u %u %u", &fds, &core, &files, &variables), 4);
	assert_int_equal(fds, 4);
	assert_int_equal(core, 0);
	assert_int_equal(files, 4096);
	assert_true(variables <= 5);
	assert_non_null(strstr(text, "NoNewPrivs:\t1"));
	assert_true(process_dead(&process, how));
	assert_string_equal(how, "exit status 0");
	close(ends[0]);
	close(ends[1]);
}

/* What answers a guest that waits for a page comes before other work, can step back and return, and needs no right for it
 * beyond that. All else that is started comes last like anybody. */
static void a_helper_keeps_the_priority_that_it_was_given(void **state)
{
	static const char *const argv[] = {"/bin/sh", "-c", "exec 2>&1; id -u; nice; nice -n 10 nice", NULL};
	struct process process;
	char text[256] = "";
	struct err err;
	int ends[2];

	(void)state;
	if (geteuid())
		skip();
	for (int nice = -10; nice <= 0; nice += 10) {
		assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
		struct spawn spawn = {.binary = argv[0], .argv = argv, .uid = 65534, .nice = nice, .lock_fd = -1,
			.fd_count = 1, .fds = {{ends[1], 1}}};
		assert_int_equal(process_spawn(&spawn, &process, &err), 0);
		wait_death(&process);
		assert_true(read(ends[0], text, sizeof(text) - 1) > 0);
		int uid, first, stepped;
		assert_int_equal(sscanf(text, "%d %d %d", &uid, &first, &stepped), 3);
		assert_int_equal(uid, 65534);
		assert_int_equal(first, nice);
		assert_int_equal(stepped, nice + 10);
		close(ends[0]);
		close(ends[1]);
	}
}

static void a_binary_that_is_missing_is_told_by_the_child(void **state)
{
	static const char *const argv[] = {"/nonexistent/qemu", NULL};
	struct process process;
	char text[256] = "", how[80];
	struct err err;
	int ends[2];

	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	struct spawn spawn = {.binary = argv[0], .argv = argv, .lock_fd = -1, .fd_count = 1, .fds = {{ends[1], 2}}};
	assert_int_equal(process_spawn(&spawn, &process, &err), 0);
	wait_death(&process);
	assert_true(process_dead(&process, how));
	assert_string_equal(how, "exit status 127");
	assert_true(read(ends[0], text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "/nonexistent/qemu"));
	close(ends[0]);
	close(ends[1]);
}

/* Images, records, states. */

static void header(uint8_t bytes[static 104], uint32_t version, uint64_t backing, uint64_t features)
{
	memset(bytes, 0, 104);
	memcpy(bytes, "QFI\xfb", 4);
	bytes[7] = (uint8_t)version;
	bytes[15] = (uint8_t)backing;
	bytes[79] = (uint8_t)features;
}

/* An image must not name another file for QEMU to open. */
static void images_that_rest_on_others_are_refused(void **state)
{
	uint8_t bytes[104];
	struct err err;

	(void)state;
	header(bytes, 3, 0, 0);
	assert_int_equal(media_check_qcow2(bytes, 104, &err), 0);
	header(bytes, 2, 0, 4);
	assert_int_equal(media_check_qcow2(bytes, 72, &err), 0); /* version 2 has no features there */
	header(bytes, 3, 200, 0);
	assert_int_equal(media_check_qcow2(bytes, 104, &err), -1);
	assert_int_equal(err.code, ERR_UNFIT);
	header(bytes, 3, 0, 4);
	assert_int_equal(media_check_qcow2(bytes, 104, &err), -1);
	header(bytes, 4, 0, 0);
	assert_int_equal(media_check_qcow2(bytes, 104, &err), -1);
	header(bytes, 3, 0, 0);
	for (size_t cut = 0; cut < 104; cut++)
		assert_int_equal(media_check_qcow2(bytes, cut, &err), -1);
	bytes[0] = 'x';
	assert_int_equal(media_check_qcow2(bytes, 104, &err), -1);
}

static void a_record_is_read_as_it_was_written(void **state)
{
	struct record record = {.step = STEP_LOAD, .task = 7, .state_task = 5, .postcopy = true, .uid = 70001}, copy;
	char path[64];
	struct err err;

	(void)state;
	CLEANUP_FD int dir = temporary_dir(path);
	record.def = example();
	assert_int_equal(record_write(dir, &record, &err), 0);
	assert_int_equal(record_read(dir, &copy, &err), 0);
	assert_true(schema_equal(&record_schema, &record, &copy));
	/* A torn or foreign one is refused, not half read. */
	CLEANUP_FD int fd = openat(dir, "instance.json", O_RDWR | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, 100), 0);
	assert_int_equal(record_read(dir, &copy, &err), -1);
	unlinkat(dir, "instance.json", 0);
	assert_int_equal(record_read(dir, &copy, &err), -1);
	assert_int_equal(err.code, ERR_NOT_FOUND);
	rmdir(path);
}

static const char vm[] = "5b1f9d9e-0000-4000-8000-000000000001";

static bool exists(int dir, const char *name)
{
	return !faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW);
}

/* From the end of one load to the next save of the same QEMU; garbage is as good as nothing. */
static void hot_pages_are_kept_for_the_next_save(void **state)
{
	char dir[] = "/tmp/watari-hot-XXXXXX";
	CLEANUP_JSON json_t *list = json_pack("[i, i]", 7, 3), *none = json_object();

	(void)state;
	assert_non_null(mkdtemp(dir));
	CLEANUP_FD int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_null(hot_list_get(fd));
	hot_list_keep(fd, none);
	assert_null(hot_list_get(fd));
	hot_list_keep(fd, list);
	CLEANUP_JSON json_t *found = hot_list_get(fd);
	assert_true(json_equal(found, list));
	CLEANUP_FD int file = openat(fd, HOT_LIST_FILE, O_WRONLY | O_CLOEXEC);
	assert_int_equal(ftruncate(file, 3), 0);
	assert_null(hot_list_get(fd));
	unlinkat(fd, HOT_LIST_FILE, 0);
	rmdir(dir);
}

static void make_state(const char *root, int root_fd, uint64_t task, const char *file)
{
	char name[128];
	struct err err;

	int fd = state_store_create(root, vm, task, 0, 0, &err);
	assert_true(fd >= 0);
	close(fd);
	snprintf(name, sizeof(name), "%s/%llu/%s", vm, (unsigned long long)task, file);
	fd = openat(root_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
}

/* What is purged is what is ours: a directory with a stranger's file in it stays, and so does what is not a number. */
static void purge_takes_only_states_and_not_the_kept(void **state)
{
	char path[64], name[128];
	struct err err;

	(void)state;
	CLEANUP_FD int dir = temporary_dir(path);
	make_state(path, dir, 3, "ram");
	make_state(path, dir, 4, "manifest");
	make_state(path, dir, 5, "device");
	make_state(path, dir, 9, "sums");
	snprintf(name, sizeof(name), "%s/07", vm);
	assert_int_equal(mkdirat(dir, name, 0700), 0);
	assert_int_equal(state_store_purge(path, vm, 4, 9, &err), 0);
	snprintf(name, sizeof(name), "%s/3", vm);
	assert_false(exists(dir, name));
	snprintf(name, sizeof(name), "%s/4/manifest", vm);
	assert_true(exists(dir, name));
	snprintf(name, sizeof(name), "%s/9/sums", vm);
	assert_true(exists(dir, name));
	snprintf(name, sizeof(name), "%s/07", vm);
	assert_true(exists(dir, name));
	unlinkat(dir, name, AT_REMOVEDIR);
	make_state(path, dir, 2, "notes.txt");
	assert_int_equal(state_store_purge(path, vm, 0, 100, &err), -1);
	snprintf(name, sizeof(name), "%s/2/notes.txt", vm);
	assert_true(exists(dir, name));
	unlinkat(dir, name, 0);
	assert_int_equal(state_store_purge(path, vm, 0, 100, &err), 0);
	assert_false(exists(dir, vm));
	assert_int_equal(state_store_purge(path, vm, 0, 100, &err), 0);
	rmdir(path);
}

/* A link in the place of a directory leads nowhere. */
static void purge_follows_no_link(void **state)
{
	char path[64], other[64], name[128];
	struct err err;

	(void)state;
	CLEANUP_FD int dir = temporary_dir(path);
	CLEANUP_FD int other_dir = temporary_dir(other);
	CLEANUP_FD int fd = openat(other_dir, "ram", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(mkdirat(dir, vm, 0700), 0);
	snprintf(name, sizeof(name), "%s/8", vm);
	assert_int_equal(symlinkat(other, dir, name), 0);
	assert_int_equal(state_store_purge(path, vm, 0, 100, &err), -1);
	assert_true(exists(other_dir, "ram"));
	assert_int_equal(state_store_create(path, vm, 8, 0, 0, &err), -1);
	unlinkat(dir, name, 0);
	unlinkat(dir, vm, AT_REMOVEDIR);
	unlinkat(other_dir, "ram", 0);
	rmdir(path);
	rmdir(other);
}

/* A whole state is never overwritten; litter is; and a state that has no room is not begun. */
static void a_new_state_gets_an_empty_directory_or_none(void **state)
{
	char path[64];
	struct err err;

	(void)state;
	CLEANUP_FD int dir = temporary_dir(path);
	make_state(path, dir, 3, "ram");
	int fd = state_store_create(path, vm, 3, 0, 0, &err);
	assert_true(fd >= 0);
	assert_false(exists(fd, "ram"));
	close(fd);
	assert_int_equal(state_store_create(path, vm, 3, 0, UINT64_MAX / 4, &err), -1);
	assert_int_equal(err.code, ERR_NO_SPACE);
	make_state(path, dir, 3, "manifest");
	assert_int_equal(state_store_create(path, vm, 3, 0, 0, &err), -1);
	assert_int_equal(err.code, ERR_EXISTS);
	assert_int_equal(state_store_open(path, vm, 4, &err), -1);
	assert_int_equal(err.code, ERR_NOT_FOUND);
	assert_int_equal(state_store_purge(path, vm, 0, 100, &err), 0);
	rmdir(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_command_line_is_this_one),
		cmocka_unit_test(a_standby_is_the_same_machine),
		cmocka_unit_test(texts_stay_texts),
		cmocka_unit_test(a_panic_device_is_where_the_definition_says),
		cmocka_unit_test(an_agents_channel_is_where_the_definition_says),
		cmocka_unit_test(kvm_keeps_huge_pages_and_demands_its_cpu),
		cmocka_unit_test(the_largest_definition_fits),
		cmocka_unit_test(integers_beyond_int64_are_clamped),
		cmocka_unit_test(commands_wait_for_the_greeting),
		cmocka_unit_test(an_error_says_what_qemu_said),
		cmocka_unit_test(a_silent_monitor_is_given_up),
		cmocka_unit_test(garbage_ends_the_connection),
		cmocka_unit_test(a_client_may_be_freed_in_its_own_reply),
		cmocka_unit_test(a_process_is_known_by_its_lock),
		cmocka_unit_test(a_number_without_the_lock_is_nobody),
		cmocka_unit_test(a_child_inherits_only_what_it_is_given),
		cmocka_unit_test(a_helper_keeps_the_priority_that_it_was_given),
		cmocka_unit_test(a_binary_that_is_missing_is_told_by_the_child),
		cmocka_unit_test(images_that_rest_on_others_are_refused),
		cmocka_unit_test(a_record_is_read_as_it_was_written),
		cmocka_unit_test(hot_pages_are_kept_for_the_next_save),
		cmocka_unit_test(purge_takes_only_states_and_not_the_kept),
		cmocka_unit_test(purge_follows_no_link),
		cmocka_unit_test(a_new_state_gets_an_empty_directory_or_none),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
