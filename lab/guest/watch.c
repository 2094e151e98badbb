/* SPDX-License-Identifier: Apache-2.0
 * PID 1 of the lab's guest, once /init has loaded the modules and set the address. See watch.h. */
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <linux/input.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct witness witness = {.checksum_ok = -1, .memory_rate = 2000, .disk_rate = 50};

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

/* Right after boot an emulated machine has no entropy yet, and would wait a second for it. What this needs is not
 * secrecy but that no two boots agree: the counter of the host's ticks sees to that. */
static uint64_t seed_u64(void)
{
	struct timespec now;
	uint64_t seed = 0;

	clock_gettime(CLOCK_REALTIME, &now);
	if (getrandom(&seed, sizeof(seed), GRND_INSECURE) != sizeof(seed))
		abort();
	seed ^= __builtin_ia32_rdtsc() * 0x9e3779b97f4a7c15U;
	seed ^= (uint64_t)now.tv_sec << 32 ^ (uint64_t)now.tv_nsec;
	return seed * 0x9e3779b97f4a7c15U;
}

uint64_t random_u64(void)
{
	static _Thread_local uint64_t x;

	while (!x)
		x = seed_u64();
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

void spawn_thread(void *(*run)(void *), void *arg, enum urgency urgency)
{
	const struct sched_param param = {.sched_priority = urgency == REALTIME ? 10 : 0};
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 256 * 1024);
	if (urgency != NORMAL) {
		pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
		pthread_attr_setschedpolicy(&attr, urgency == REALTIME ? SCHED_FIFO : SCHED_IDLE);
		pthread_attr_setschedparam(&attr, &param);
	}
	if (pthread_create(&thread, &attr, run, arg)) {
		fprintf(stderr, "watch: no thread\n");
		abort();
	}
	pthread_attr_destroy(&attr);
}

static void parse_option(const char *name, const char *value)
{
	struct options *options = &witness.options;
	unsigned number = (unsigned)strtoul(value, NULL, 10);

	if (!strcmp(name, "fill_mib"))
		options->fill_mib = number;
	else if (!strcmp(name, "load_mib"))
		options->load_mib = number;
	else if (!strcmp(name, "disk_mib"))
		options->disk_mib = number;
	else if (!strcmp(name, "load_rate"))
		atomic_store(&witness.memory_rate, number);
	else if (!strcmp(name, "disk_rate"))
		atomic_store(&witness.disk_rate, number);
	else if (!strcmp(name, "load"))
		snprintf(options->load_mode, sizeof(options->load_mode), "%s", value);
	else if (!strcmp(name, "writer"))
		snprintf(options->writer, sizeof(options->writer), "%s", value);
	else if (!strcmp(name, "writer_rate"))
		options->writer_rate = number >= 1 && number <= 1000 ? number : 20;
	else if (!strcmp(name, "power"))
		options->power_ignore = !strcmp(value, "ignore");
	else if (strcmp(name, "ip"))
		printf("watch: what is watari.%s?\n", name);
}

static void parse_command_line(void)
{
	char line[4096] = "", *save;
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);

	witness.options = (struct options){.fill_mib = 256, .load_mib = 64, .disk_mib = 16, .writer_rate = 20};
	if (fd < 0 || read(fd, line, sizeof(line) - 1) < 0)
		perror("/proc/cmdline");
	close(fd);
	for (char *word = strtok_r(line, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
		char *value = strchr(word, '=');

		if (strncmp(word, "watari.", 7) || !value)
			continue;
		*value = 0;
		parse_option(word + 7, value + 1);
	}
	atomic_store(&witness.memory_on, !!strstr(witness.options.load_mode, "mem"));
	atomic_store(&witness.disk_on, !!strstr(witness.options.load_mode, "disk"));
}

static void make_nonce(void)
{
	for (size_t i = 0; i < sizeof(witness.nonce); i += sizeof(uint64_t)) {
		uint64_t seed = seed_u64();

		memcpy(witness.nonce + i, &seed, sizeof(seed));
	}
	for (size_t i = 0; i < sizeof(witness.nonce); i++)
		snprintf(witness.nonce_hex + 2 * i, 3, "%02x", witness.nonce[i]);
}

static void *run_ticker(void *arg)
{
	const struct timespec tick = {.tv_nsec = 10000000};

	for (;; (void)arg) {
		nanosleep(&tick, NULL);
		atomic_fetch_add(&witness.counter, 1);
	}
	return NULL;
}

static void end_machine(int how)
{
	sync();
	reboot(how);
}

/* A panic of the kernel, as a fault of its own would cause it. */
void panic_machine(void)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "c", 1) < 0)
		perror("/proc/sysrq-trigger");
	if (fd >= 0)
		close(fd);
}

/* busybox's poweroff, halt and reboot tell PID 1 by these. */
static void on_signal(int sig)
{
	end_machine(sig == SIGTERM ? RB_AUTOBOOT : RB_POWER_OFF);
}

static void *run_power_button(void *arg)
{
	struct pollfd fds[16];
	struct input_event event;
	nfds_t count = 0;
	glob_t found;

	if (glob("/dev/input/event*", 0, NULL, &found) != 0)
		return NULL;
	for (size_t i = 0; i < found.gl_pathc && count < 16; i++)
		if ((fds[count].fd = open(found.gl_pathv[i], O_RDONLY | O_CLOEXEC)) >= 0)
			fds[count++].events = POLLIN;
	for (;; (void)arg) {
		poll(fds, count, -1);
		for (nfds_t i = 0; i < count; i++)
			if ((fds[i].revents & POLLIN) && read(fds[i].fd, &event, sizeof(event)) == sizeof(event) &&
				event.type == EV_KEY && event.code == KEY_POWER && event.value == 1 &&
				!witness.options.power_ignore)
				end_machine(RB_POWER_OFF);
	}
	return NULL;
}

static void show(int fd, const char *before)
{
	char text[400];
	int len = snprintf(text, sizeof(text),
		"%swatari guest %.8s counter %" PRIu64 " up %" PRIu64 " s, memory %s, load errors %" PRIu64
		"  (Enter: shell)\033[K",
		before, witness.nonce_hex, atomic_load(&witness.counter), now_ns() / 1000000000U,
		!atomic_load(&witness.fill_ready)	  ? "filling"
		: atomic_load(&witness.checksum_ok) == -1 ? "ready"
		: atomic_load(&witness.checksum_ok)	  ? "verified"
							  : "DAMAGED",
		atomic_load(&witness.memory_errors) + atomic_load(&witness.disk_errors));

	if (fd >= 0 && write(fd, text, (size_t)len) < 0)
		return;
}

static void run_shell(int tty)
{
	pid_t pid = fork();

	if (pid == 0) {
		setsid();
		ioctl(tty, TIOCSCTTY, 1);
		for (int fd = 0; fd < 3; fd++)
			dup2(tty, fd);
		execl("/bin/busybox", "sh", "-i", (char *)NULL);
		_exit(127);
	}
	waitpid(pid, NULL, 0);
}

int main(void)
{
	struct pollfd serial = {.events = POLLIN};
	int screen = open("/dev/tty1", O_WRONLY | O_CLOEXEC | O_NOCTTY);
	char input[64];

	parse_command_line();
	make_nonce();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, on_signal);
	signal(SIGUSR1, on_signal);
	signal(SIGUSR2, on_signal);
	spawn_thread(run_ticker, NULL, REALTIME);
	net_start();
	disk_start();
	writer_start();
	agent_start();
	memory_start();
	spawn_thread(run_power_button, NULL, NORMAL);

	serial.fd = open("/dev/ttyS0", O_RDWR | O_CLOEXEC | O_NOCTTY);
	printf("watch: up, nonce %s\n", witness.nonce_hex);
	fflush(stdout);
	for (;;) {
		show(serial.fd, "\r");
		show(screen, "\033[H\033[2J\n  ");
		if (poll(&serial, 1, 1000) > 0 && read(serial.fd, input, sizeof(input)) > 0)
			run_shell(serial.fd);
	}
}
