/* SPDX-License-Identifier: Apache-2.0
 * A bad cable: sits between a node's port of the lab's switch and the switch, and loses, delays, doubles, reorders or
 * swallows frames, each way for itself. It runs in the switch's namespaces; when it ends, the cable is cut.
 *
 *   wire PORT TAP WAY [WAY]     WAY is in|out:loss=P,delay=MS,jitter=MS,duplicate=P,reorder=P,mtu=N
 *                               in: towards the node. P in percent. A way not named is whole.
 *
 * TAP is a tap device (with vnet_hdr) that is a port of the bridge in PORT's place. It goes into the background once
 * both ends are open; its command line is then "watari-wire PORT ...". Frames keep their unfinished checksums and their
 * size across it (virtio_net_hdr), so that nothing but what was asked for happens to them. It must never hold more than
 * QUEUE_MAX frames: what comes beyond that is lost, as in any switch. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <arpa/inet.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { QUEUE_MAX = 2048, FRAME_MAX = 70000, REORDER_MS = 20, BATCH = 64 };

struct way {
	unsigned loss, duplicate, reorder; /* percent */
	unsigned delay_ms, jitter_ms;
	unsigned mtu; /* 0: any */
	int from, to;
};

struct frame {
	uint64_t due_ms;
	int to;
	size_t bytes;
	uint8_t *data; /* virtio_net_hdr, then the frame */
};

static struct frame queue[QUEUE_MAX]; /* by time; those of one time in the order they came */
static size_t queued;

static int fail(const char *what)
{
	fprintf(stderr, "wire: %s: %s\n", what, strerror(errno));
	return 1;
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static unsigned random_below(unsigned limit)
{
	static uint64_t x;

	while (!x)
		if (getrandom(&x, sizeof(x), 0) != sizeof(x))
			abort();
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (unsigned)((x >> 32) % limit);
}

static bool happens(unsigned percent)
{
	return percent && random_below(100) < percent;
}

/* The frame as it would be on a cable: a large one that is still to be cut into segments counts as one of these. */
static bool is_too_large(const struct way *way, const uint8_t *data, size_t bytes)
{
	const struct virtio_net_hdr *header = (const void *)data;
	size_t size = bytes - sizeof(*header) - ETH_HLEN;

	if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE)
		size = (size_t)header->hdr_len - ETH_HLEN + header->gso_size;
	return way->mtu && size > way->mtu;
}

static void enqueue(const struct way *way, const uint8_t *data, size_t bytes)
{
	uint64_t due_ms = now_ms() + way->delay_ms;
	size_t at = queued;

	if (way->jitter_ms)
		due_ms += random_below(way->jitter_ms + 1);
	if (happens(way->reorder))
		due_ms += REORDER_MS;
	if (queued == QUEUE_MAX)
		return;
	uint8_t *copy = malloc(bytes);
	if (!copy)
		return;
	memcpy(copy, data, bytes);
	for (; at > 0 && queue[at - 1].due_ms > due_ms; at--)
		queue[at] = queue[at - 1];
	queue[at] = (struct frame){.due_ms = due_ms, .to = way->to, .bytes = bytes, .data = copy};
	queued++;
}

static void deliver(uint64_t now)
{
	size_t done = 0;

	for (; done < queued && queue[done].due_ms <= now; done++) {
		/* A full device loses the frame, as it would any other. */
		if (write(queue[done].to, queue[done].data, queue[done].bytes) < 0 && errno != EAGAIN &&
			errno != ENOBUFS && errno != EINVAL && errno != EMSGSIZE && errno != EIO && errno != ENETDOWN)
			exit(fail("write"));
		free(queue[done].data);
	}
	queued -= done;
	memmove(queue, queue + done, queued * sizeof(*queue));
}

/* Returns false when this end is gone. */
static bool take(const struct way *way)
{
	static uint8_t data[FRAME_MAX];

	for (int i = 0; i < BATCH; i++) {
		ssize_t got = read(way->from, data, sizeof(data));

		if (got < 0)
			return errno == EAGAIN || errno == EINTR || errno == ENETDOWN;
		size_t bytes = (size_t)got;
		if (bytes < sizeof(struct virtio_net_hdr) + ETH_HLEN || is_too_large(way, data, bytes) ||
			happens(way->loss))
			continue;
		enqueue(way, data, bytes);
		if (happens(way->duplicate))
			enqueue(way, data, bytes);
	}
	return true;
}

static int open_port(const char *name)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
	struct packet_mreq everything = {.mr_type = PACKET_MR_PROMISC};
	int on = 1;
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	address.sll_ifindex = everything.mr_ifindex = (int)if_nametoindex(name);
	if (fd < 0 || !address.sll_ifindex || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0 ||
		setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) < 0 ||
		setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &everything, sizeof(everything)) < 0 ||
		bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -1;
	return fd;
}

static int open_tap(const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0)
		return -1;
	return fd;
}

static bool parse_way(const char *text, struct way ways[2])
{
	static const struct {
		const char *name;
		size_t offset;
		unsigned max;
	} keys[] = {
		{"loss", offsetof(struct way, loss), 100},
		{"duplicate", offsetof(struct way, duplicate), 100},
		{"reorder", offsetof(struct way, reorder), 100},
		{"delay", offsetof(struct way, delay_ms), 60000},
		{"jitter", offsetof(struct way, jitter_ms), 60000},
		{"mtu", offsetof(struct way, mtu), 65535},
	};
	struct way *way = !strncmp(text, "in:", 3) ? &ways[0] : !strncmp(text, "out:", 4) ? &ways[1] : NULL;
	char copy[200], *save;

	snprintf(copy, sizeof(copy), "%s", way ? strchr(text, ':') + 1 : "");
	for (char *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		char *value = strchr(word, '='), *end;
		size_t key = 0;

		if (value)
			*value++ = 0;
		while (key < sizeof(keys) / sizeof(*keys) && strcmp(keys[key].name, word))
			key++;
		unsigned long number = value ? strtoul(value, &end, 10) : 0;
		if (key == sizeof(keys) / sizeof(*keys) || !value || *value < '0' || *value > '9' || *end ||
			number > keys[key].max) {
			fprintf(stderr,
				"wire: '%s' is none of loss, duplicate, reorder (0 to 100 percent), delay, "
				"jitter (ms, to 60000), mtu\n",
				word);
			return false;
		}
		*(unsigned *)(void *)((char *)way + keys[key].offset) = (unsigned)number;
	}
	if (!way)
		fprintf(stderr, "wire: '%s' is neither in:... nor out:...\n", text);
	return way != NULL;
}

int main(int argc, char **argv)
{
	const struct sched_param param = {.sched_priority = 40};
	struct way ways[2] = {0};
	bool is_named = !strcmp(argv[0], "watari-wire");

	if (argc < 4 || argc > 5) {
		fprintf(stderr, "usage: wire PORT TAP in|out:KEY=N,... [in|out:KEY=N,...]\n");
		return 64;
	}
	for (int i = 3; i < argc; i++)
		if (!parse_way(argv[i], ways))
			return 64;
	if (!is_named) {
		argv[0] = (char[]){"watari-wire"};
		execv("/proc/self/exe", argv);
		return fail("exec");
	}
	int port = open_port(argv[1]), tap = open_tap(argv[2]);
	if (port < 0 || tap < 0)
		return fail(port < 0 ? argv[1] : argv[2]);
	ways[0].from = ways[1].to = tap;
	ways[0].to = ways[1].from = port;
	if (daemon(0, 0) < 0)
		return fail("daemon");
	prctl(PR_SET_NAME, "watari-wire");
	sched_setscheduler(0, SCHED_FIFO, &param); /* a cable does not wait for a processor; without the right it may */
	for (;;) {
		struct pollfd fds[2] = {{.fd = tap, .events = POLLIN}, {.fd = port, .events = POLLIN}};
		uint64_t now = now_ms();
		int wait_ms = !queued ? -1 : queue[0].due_ms > now ? (int)(queue[0].due_ms - now) : 0;

		if (poll(fds, 2, wait_ms) < 0 && errno != EINTR)
			return fail("poll");
		for (int i = 0; i < 2; i++)
			if (fds[i].revents && !take(&ways[i]))
				return 1;
		deliver(now_ms());
	}
}
