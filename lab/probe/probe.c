/* SPDX-License-Identifier: Apache-2.0 */
#include "probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

int64_t mono_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

int64_t real_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

int probe_connect(const struct probe_options *options, int type, uint16_t default_port)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET, .sin_port = htons(options->port ? options->port : default_port)};
	struct timeval limit = {.tv_sec = options->stall_s};
	int fd;

	if (inet_pton(AF_INET, options->to, &addr.sin_addr) != 1) {
		fprintf(stderr, "probe: --to wants an IPv4 address, not '%s'\n", options->to);
		return -1;
	}
	fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		fprintf(stderr, "probe: %s port %d: %s\n", options->to, ntohs(addr.sin_port), strerror(errno));
		close(fd);
		return -1;
	}
	return fd;
}

static int stdin_is_pipe(void)
{
	struct stat st;

	return fstat(0, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
}

static int stop_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

int probe_loop(const struct probe_options *options, int fd, const struct loop_calls *calls)
{
	const int64_t every = options->every_ms * NS_PER_MS;
	int64_t due = mono_ns();
	const int64_t end = options->seconds ? due + options->seconds * NS_PER_S : INT64_MAX;
	struct pollfd fds[4] = {
		{.fd = fd, .events = POLLIN},
		{.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), .events = POLLIN},
		{.fd = stop_signals(), .events = POLLIN},
		{.fd = stdin_is_pipe() ? 0 : -1, .events = POLLIN},
	};
	int result = 0;

	while (!result && due < end) {
		struct itimerspec at = {.it_value = {.tv_sec = due / NS_PER_S, .tv_nsec = due % NS_PER_S}};
		char drain[256];

		timerfd_settime(fds[1].fd, TFD_TIMER_ABSTIME, &at, NULL);
		if (poll(fds, 4, -1) < 0 && errno != EINTR)
			break;
		if (fds[0].revents)
			result = calls->readable(calls->context);
		if (!result && mono_ns() >= due) {
			result = calls->tick(calls->context, mono_ns() - due);
			/* A probe that was held up goes on from now: it does not send a burst that nobody asked for. */
			due += every;
			if (due < mono_ns())
				due = mono_ns();
		}
		if (fds[2].revents || (fds[3].revents && read(0, drain, sizeof(drain)) <= 0))
			break;
	}
	/* The last questions may still be on their way. */
	for (int64_t until = mono_ns() + 200 * NS_PER_MS; !result && mono_ns() < until;)
		if (poll(fds, 1, 20) > 0)
			result = calls->readable(calls->context);
	close(fds[1].fd);
	close(fds[2].fd);
	return result;
}

static void usage(FILE *out)
{
	fputs("usage: probe udp  --to IP [--every-ms 5] [--seconds N] [--gap-ms 20] [--json] [--windows]\n"
	      "       probe tcp  --to IP [--every-ms 20] [--seconds N] [--stall-s 60] [--json]\n"
	      "       probe http --to IP [--path /checksum] [--stall-s 60]\n"
	      "udp and tcp end after --seconds, on SIGINT or SIGTERM, or when their standard input, if it is a pipe, "
	      "is\n"
	      "closed; then they print their report. They say on stderr when the first answer came.\n"
	      "exit status: 0 fine; 1 tcp: connection broken or sequence jumped, udp: no answer at all, http: not 200; "
	      "2 usage.\n",
		out);
}

static int parse(struct probe_options *options, int argc, char **argv)
{
	static const struct option known[] = {{"to", 1, 0, 't'}, {"port", 1, 0, 'p'}, {"every-ms", 1, 0, 'e'},
		{"seconds", 1, 0, 's'}, {"gap-ms", 1, 0, 'g'}, {"stall-s", 1, 0, 'S'}, {"path", 1, 0, 'P'},
		{"json", 0, 0, 'j'}, {"windows", 0, 0, 'w'}, {"help", 0, 0, 'h'}, {0}};
	int c;

	while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		unsigned number = optarg ? (unsigned)strtoul(optarg, NULL, 10) : 0;

		switch (c) {
		case 't':
			options->to = optarg;
			break;
		case 'P':
			options->path = optarg;
			break;
		case 'p':
			options->port = (uint16_t)number;
			break;
		case 'e':
			options->every_ms = number;
			break;
		case 's':
			options->seconds = number;
			break;
		case 'g':
			options->gap_ms = number;
			break;
		case 'S':
			options->stall_s = number;
			break;
		case 'j':
			options->json = 1;
			break;
		case 'w':
			options->windows = 1;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			return -1;
		}
	}
	return options->to && options->every_ms && options->gap_ms && options->stall_s && optind == argc ? 0 : -1;
}

static const struct verb {
	const char *name;
	int (*run)(const struct probe_options *options);
	unsigned every_ms;
} verbs[] = {{"udp", probe_udp, 5}, {"tcp", probe_tcp, 20}, {"http", probe_http, 1}};

int main(int argc, char **argv)
{
	const struct sched_param param = {.sched_priority = 20};

	if (argc >= 2 && !strcmp(argv[1], "--help")) {
		usage(stdout);
		return 0;
	}
	for (size_t i = 0; argc >= 2 && i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		struct probe_options options = {
			.path = "/checksum", .every_ms = verbs[i].every_ms, .gap_ms = 20, .stall_s = 60};

		if (strcmp(argv[1], verbs[i].name))
			continue;
		if (parse(&options, argc - 1, argv + 1) < 0)
			break;
		/* So that a busy machine does not pass for a guest that is away. Where it is refused, max_late_ms
		 * tells. */
		sched_setscheduler(0, SCHED_FIFO, &param);
		return verbs[i].run(&options);
	}
	usage(stderr);
	return 2;
}
