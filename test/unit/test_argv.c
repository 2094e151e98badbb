/* SPDX-License-Identifier: Apache-2.0
 * QEMU's command line: always the same for one definition, and nothing that a person wrote becomes another option. */
#include "qemu_make.h"

#include "driver/qemu/argv.h"

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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
