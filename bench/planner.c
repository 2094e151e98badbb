/* SPDX-License-Identifier: Apache-2.0
 * planner: how long the core takes to decide where a lost node's VMs go. Pure computation: no daemon, no disk.
 *
 * 64 nodes, 8,000 VMs with rules (a label each, preferred owners, start orders, priorities). A round: one node leaves
 * the view, is confirmed off, and every node's duties are asked; again with 8 nodes. Prints the time from the view to
 * the duties, the process's resident memory, and the cost of one event with 100, 1,000 and 8,000 VMs. */
#include "base/cleanup.h"
#include "core/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NODES = 64, ROUNDS_MAX = 200, LIMIT_MS = 100 };

struct bench {
	struct cluster *cluster, *fresh;
	struct core_outcome *outcome;
	uint64_t now_ms;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void feed(struct bench *b, const struct event *event)
{
	static struct event e;

	e = *event;
	e.now_ms = b->now_ms += 10;
	e.node = e.node ? e.node : 64;
	strcpy(e.by, "bench");
	snprintf(e.boot_id, sizeof(e.boot_id), "boot-%u", e.node);
	core_step(b->cluster, &e, b->outcome);
	if (b->outcome->code != ERR_NONE) {
		fprintf(stderr, "planner: refused: %s\n", b->outcome->text);
		exit(1);
	}
}

static void fill(struct bench *b, uint32_t vms)
{
	struct event event = {.kind = EVENT_VIEW, .members = UINT64_MAX};

	memset(b->cluster, 0, sizeof(*b->cluster));
	core_init(b->cluster, "00000000-0000-4000-8000-0000000000aa");
	b->now_ms = 1000000;
	feed(b, &event);
	for (uint32_t node = 1; node <= NODES; node++) {
		event = (struct event){.kind = EVENT_NODE_REPORT, .node = node};
		snprintf(event.facts.name, sizeof(event.facts.name), "n%u", node);
		snprintf(event.facts.boot_id, sizeof(event.facts.boot_id), "boot-%u", node);
		event.facts.memory_mib = 160 * 1024;
		event.facts.vcpus = 64;
		strcpy(event.facts.accel, "kvm");
		feed(b, &event);
	}
	for (uint32_t i = 0; i < vms; i++) {
		event = (struct event){.kind = EVENT_VM_CREATE};
		struct vm_def *def = &event.def;
		snprintf(def->uuid, sizeof(def->uuid), "00000000-0000-4000-8000-%012u", i + 1);
		snprintf(def->name, sizeof(def->name), "vm%u", i + 1);
		strcpy(def->kernel, "/boot/vmlinuz");
		def->memory_mib = 512 + i % 4 * 256;
		def->priority = (enum vm_priority)(i % 3);
		snprintf(def->policy.anti_affinity, sizeof(def->policy.anti_affinity), "group%u", i / 4);
		def->policy.anti_affinity_hard = i % 8 == 0;
		def->policy.preferred_count = 2;
		def->policy.preferred[0].node = i % NODES + 1;
		def->policy.preferred[1].node = (i + 7) % NODES + 1;
		def->policy.start_order = i % 5;
		vm_def_pin(def);
		feed(b, &event);
		event = (struct event){.kind = EVENT_VM_START, .target = i % NODES + 1};
		memcpy(event.vm, b->cluster->vms[i].def.uuid, UUID_BYTES);
		feed(b, &event);
		event = (struct event){.kind = EVENT_STARTED, .node = i % NODES + 1, .epoch = 1};
		memcpy(event.vm, b->cluster->vms[i].def.uuid, UUID_BYTES);
		feed(b, &event);
	}
	b->now_ms += 3600 * 1000;
	cluster_copy(b->fresh, b->cluster);
}

/* From the view without the nodes until all duties are known. */
static double lose(struct bench *b, uint64_t lost)
{
	struct event event = {.kind = EVENT_VIEW, .members = ~lost};
	uint64_t duties = 0;

	cluster_copy(b->cluster, b->fresh);
	double began = now();
	feed(b, &event);
	for (uint32_t node = 1; node <= NODES; node++) {
		if (!(lost & node_bit(node)))
			continue;
		event = (struct event){.kind = EVENT_NODE_CONFIRM_OFF, .target = node};
		snprintf(event.text, sizeof(event.text), "n%u", node);
		feed(b, &event);
	}
	for (uint32_t i = 0; i < b->cluster->vm_count; i++)
		for (uint32_t node = 1; node <= NODES; node++)
			duties += core_duty(b->cluster, i, node).kind != DUTY_NONE;
	double took = now() - began;
	if (!duties)
		exit(1);
	return took;
}

static double p99(struct bench *b, uint32_t nodes, uint32_t rounds, double *median)
{
	double ms[ROUNDS_MAX];

	for (uint32_t round = 0; round < rounds; round++) {
		uint64_t lost = 0;
		for (uint32_t i = 0; i < nodes; i++)
			lost |= node_bit((round * 5 + i * 7) % (NODES - 1) + 1); /* n64 stays: it asks */
		ms[round] = lose(b, lost);
	}
	qsort(ms, rounds, sizeof(*ms), by_value);
	*median = ms[rounds / 2];
	return ms[(rounds * 99 + 99) / 100 - 1];
}

/* A tick with nothing due: what every event costs at least. */
static double event_us(struct bench *b)
{
	enum { EVENTS = 200 };
	double began = now();

	for (int i = 0; i < EVENTS; i++) {
		feed(b, &(struct event){.kind = EVENT_TICK});
		(void)core_deadline_ms(b->cluster);
	}
	return (now() - began) * 1000 / EVENTS;
}

static double rss_mib(void)
{
	CLEANUP_FILE FILE *file = fopen("/proc/self/statm", "re");
	unsigned long all = 0, resident = 0;

	return file && fscanf(file, "%lu %lu", &all, &resident) == 2 ? (double)resident * 4096 / (1 << 20) : 0;
}

int main(int count, char **words)
{
	static const uint32_t sizes[] = {100, 1000, 8000};
	struct bench b = {.cluster = calloc(1, sizeof(*b.cluster)),
		.fresh = calloc(1, sizeof(*b.fresh)),
		.outcome = calloc(1, sizeof(*b.outcome))};
	bool json = false;
	uint32_t rounds = ROUNDS_MAX;
	double cost_us[3], one_median, eight_median;

	for (int i = 1; i < count; i++) {
		if (!strcmp(words[i], "--quick"))
			rounds = 40;
		else if (!strcmp(words[i], "--json"))
			json = true;
		else
			return fprintf(stderr, "usage: planner [--quick] [--json]\n"), 64;
	}
	if (!b.cluster || !b.fresh || !b.outcome)
		return 1;
	for (int i = 0; i < 3; i++) {
		fill(&b, sizes[i]);
		cost_us[i] = event_us(&b);
	}
	double one = p99(&b, 1, rounds, &one_median), eight = p99(&b, 8, rounds, &eight_median);
	if (json)
		printf("{\"decide_ms_p99\": %.2f, \"decide_ms_median\": %.2f, \"decide8_ms_p99\": %.2f, "
		       "\"decide8_ms_median\": %.2f, \"limit_ms\": %d, \"rss_mib\": %.1f, \"event_us_100\": %.1f, "
		       "\"event_us_1000\": %.1f, \"event_us_8000\": %.1f}\n",
			one, one_median, eight, eight_median, LIMIT_MS, rss_mib(), cost_us[0], cost_us[1], cost_us[2]);
	else
		printf("64 nodes, 8,000 VMs, %u rounds\n1 node lost   median %7.2f ms, p99 %7.2f ms (limit %d)\n"
		       "8 nodes lost  median %7.2f ms, p99 %7.2f ms\nan event      %.0f us with 100 VMs, %.0f with "
		       "1,000, "
		       "%.0f with 8,000\nmemory        %.1f MiB resident: two clusters and the outcome\n",
			rounds, one_median, one, LIMIT_MS, eight_median, eight, cost_us[0], cost_us[1], cost_us[2],
			rss_mib());
	return 0;
}
