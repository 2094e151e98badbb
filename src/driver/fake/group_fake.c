/* SPDX-License-Identifier: Apache-2.0
 * The daemon's side of the simulated group, and the nodes' queues. Rings are formed in ring.c. */
#include "driver/fake/ring.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct packet *packet_new(struct net *net, enum packet_kind kind, uint32_t from, const uint8_t *bytes, size_t size)
{
	size_t nodes = net->config.node_count + 1;
	struct packet *packet = malloc(sizeof(*packet) + nodes * sizeof(uint64_t) + size);

	assert(packet);
	*packet = (struct packet){.references = 1, .kind = kind, .from = from, .size = size};
	packet->known = (uint64_t *)(packet + 1);
	packet->bytes = (uint8_t *)(packet->known + nodes);
	memset(packet->known, 0, nodes * sizeof(uint64_t));
	if (size)
		memcpy(packet->bytes, bytes, size);
	return packet;
}

void packet_drop(struct packet *packet)
{
	if (packet && !--packet->references)
		free(packet);
}

void fifo_push(struct fifo *fifo, struct entry entry)
{
	if (fifo->count == fifo->capacity) {
		uint32_t capacity = fifo->capacity ? 2 * fifo->capacity : 16;
		struct entry *entries = malloc(capacity * sizeof(*entries));
		assert(entries);
		for (uint32_t i = 0; i < fifo->count; i++)
			entries[i] = *fifo_at(fifo, i);
		free(fifo->entries);
		*fifo = (struct fifo){.entries = entries, .count = fifo->count, .capacity = capacity};
	}
	fifo->count++;
	*fifo_at(fifo, fifo->count - 1) = entry;
}

struct entry *fifo_at(struct fifo *fifo, uint32_t i)
{
	return &fifo->entries[(fifo->first + i) & (fifo->capacity - 1)];
}

struct entry fifo_pop(struct fifo *fifo)
{
	assert(fifo->count);
	struct entry entry = *fifo_at(fifo, 0);
	fifo->first = (fifo->first + 1) & (fifo->capacity - 1);
	fifo->count--;
	return entry;
}

void fifo_clear(struct fifo *fifo)
{
	while (fifo->count) {
		struct entry entry = fifo_pop(fifo);
		packet_drop(entry.packet);
	}
}

struct net *net_new(struct timeline *timeline, struct prng *prng, const struct net_config *config)
{
	struct net *net = calloc(1, sizeof(*net));

	assert(net && config->node_count <= NODES_MAX);
	net->timeline = timeline;
	net->prng = prng;
	net->config = *config;
	net->known = calloc((config->node_count + 1) * (config->node_count + 1), sizeof(uint64_t));
	net->nodes = calloc(config->node_count + 1, sizeof(*net->nodes));
	assert(net->known && net->nodes);
	for (uint32_t id = 1; id <= config->node_count; id++)
		net->nodes[id] = (struct net_node){.net = net, .id = id};
	return net;
}

void net_free(struct net *net)
{
	if (!net)
		return;
	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		struct net_node *node = &net->nodes[id];
		assert(!node->process);
		fifo_clear(&node->inbox);
		fifo_clear(&node->outbox);
		free(node->inbox.entries);
		free(node->outbox.entries);
		ring_leave(node);
	}
	for (uint32_t i = 0; i < NET_RECENT_MAX; i++)
		packet_drop(net->recent[i]);
	free(net->nodes);
	free(net->known);
	free(net);
}

static uint64_t *known(const struct net *net, uint32_t node, uint32_t other)
{
	return &net->known[node * (net->config.node_count + 1) + other];
}

uint64_t net_knows_us(const struct net *net, uint32_t node, uint32_t other)
{
	const struct net_node *silent = &net->nodes[other];
	uint64_t apart_us = net->nodes[node].apart_us[other];
	uint64_t knows = *known(net, node, other);

	if (node == other)
		return timeline_now_us(net->timeline);
	if (silent->silence_us && apart_us && timeline_now_us(net->timeline) >= apart_us + silent->silence_us &&
		silent->died_us > knows)
		return silent->died_us;
	return knows;
}

void net_apart_note(struct net_node *node, uint64_t members)
{
	struct net *net = node->net;

	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		if (members & node_bit(id)) {
			*known(net, node->id, id) = net_knows_us(net, node->id, id);
			node->apart_us[id] = 0;
		} else if (!node->apart_us[id]) {
			node->apart_us[id] = timeline_now_us(net->timeline);
		}
	}
}

void net_died(struct net *net, uint32_t node)
{
	net->nodes[node].died_us = timeline_now_us(net->timeline);
}

void net_set_silence(struct net *net, uint32_t node, uint64_t silence_us)
{
	net->nodes[node].silence_us = silence_us;
}

void net_learn(struct net *net, uint32_t node, uint32_t other)
{
	*known(net, node, other) = timeline_now_us(net->timeline);
}

static void knowledge_pack(const struct net *net, struct packet *packet)
{
	for (uint32_t other = 1; other <= net->config.node_count; other++)
		packet->known[other] = net_knows_us(net, packet->from, other);
}

static void knowledge_unpack(const struct net *net, uint32_t node, const struct packet *packet)
{
	for (uint32_t other = 1; other <= net->config.node_count; other++)
		if (*known(net, node, other) < packet->known[other])
			*known(net, node, other) = packet->known[other];
}

uint64_t net_delay_us(struct net *net)
{
	uint32_t typical = net->config.delay_us;

	if (net->config.exact)
		return typical;
	if (prng_chance(net->prng, net->config.slow_permille))
		return prng_between(net->prng, typical, 50 * (uint64_t)typical);
	return prng_between(net->prng, typical / 4, typical);
}

/* One callback into the daemon, kept while it is paused. */
struct arrival {
	struct group_fake *fake;
	struct entry entry;
	bool down;
	uint64_t leaves;
};

static void arrival_drop(void *ctx)
{
	struct arrival *arrival = ctx;

	packet_drop(arrival->entry.packet);
	free(arrival);
}

static void arrival_run(void *ctx)
{
	struct arrival *arrival = ctx;
	struct group_fake *fake = arrival->fake;
	const struct entry *entry = &arrival->entry;
	struct err err;

	/* Nothing comes after the daemon has left, also where it came back meanwhile. */
	if (arrival->leaves != fake->leaves) {
		arrival_drop(arrival);
		return;
	}
	if (!entry->packet)
		fake->view_formed_us = entry->formed_us;
	if (arrival->down) {
		fake->callbacks.view(fake->callbacks.ctx, &entry->view);
		err_set(&err, ERR_UNAVAILABLE, "corosync is gone");
		fake->callbacks.down(fake->callbacks.ctx, &err);
	} else if (entry->packet) {
		knowledge_unpack(fake->net, fake->group.node, entry->packet);
		fake->callbacks.deliver(
			fake->callbacks.ctx, entry->packet->from, entry->packet->bytes, entry->packet->size);
	} else {
		fake->callbacks.view(fake->callbacks.ctx, &entry->view);
	}
	arrival_drop(arrival);
}

static void arrive(struct group_fake *fake, struct entry entry, bool down)
{
	struct arrival *arrival = malloc(sizeof(*arrival));

	assert(arrival);
	*arrival = (struct arrival){.fake = fake, .entry = entry, .down = down, .leaves = fake->leaves};
	if (entry.packet)
		entry.packet->references++;
	loop_fake_call(fake->loop, arrival_run, arrival_drop, arrival);
}

/* The head of the node's inbox is due. */
static void inbox_pump(void *ctx)
{
	struct net_node *node = ctx;
	struct entry entry = fifo_pop(&node->inbox);

	node->pump = NULL;
	if (node->ring && entry.ring_id == node->ring->id)
		node->delivered = entry.position;
	if (node->inbox.count)
		node->pump = timeline_after(node->net->timeline,
			fifo_at(&node->inbox, 0)->at_us - timeline_now_us(node->net->timeline), inbox_pump, node);

	struct group_fake *fake = node->process;
	if (fake && !entry.packet && fake->wants_in && entry.generation == fake->generation)
		fake->in = true;
	if (fake && fake->in)
		arrive(fake, entry, false);
	packet_drop(entry.packet);
}

void net_deliver(struct net_node *node, struct entry entry)
{
	uint64_t at = timeline_now_us(node->net->timeline) + net_delay_us(node->net);

	if (at < node->inbox_last_us)
		at = node->inbox_last_us;
	node->inbox_last_us = at;
	entry.at_us = at;
	if (entry.packet)
		entry.packet->references++;
	fifo_push(&node->inbox, entry);
	if (!node->pump)
		node->pump = timeline_after(
			node->net->timeline, at - timeline_now_us(node->net->timeline), inbox_pump, node);
}

static void outbox_order(void *ctx)
{
	struct net_node *node = ctx;

	node->order = NULL;
	if (!node->ring || node->ring->frozen || !node->outbox.count)
		return;
	struct entry entry = fifo_pop(&node->outbox);
	ring_order(node->ring, entry.packet);
	packet_drop(entry.packet);
	net_outbox_arm(node);
}

void net_outbox_arm(struct net_node *node)
{
	if (!node->order && node->outbox.count && node->ring && !node->ring->frozen)
		node->order = timeline_after(node->net->timeline, net_delay_us(node->net), outbox_order, node);
}

static void outbox_push(struct net_node *node, struct packet *packet)
{
	fifo_push(&node->outbox, (struct entry){.packet = packet});
	net_outbox_arm(node);
}

static void control_push(struct net_node *node, enum packet_kind kind, uint64_t generation)
{
	struct packet *packet = packet_new(node->net, kind, node->id, NULL, 0);

	packet->generation = generation;
	outbox_push(node, packet);
}

void net_process_lost(struct net_node *node)
{
	struct group_fake *fake = node->process;
	struct group_view view = {.ring_seq = node->seen_seq,
		.expected_votes = node->net->config.node_count,
		.members = node_bit(node->id)};

	fake->in = false;
	arrive(fake, (struct entry){.view = view, .formed_us = timeline_now_us(node->net->timeline)}, true);
}

void net_process_join(struct net_node *node)
{
	struct group_fake *fake = node->process;

	fake->generation = ++node->net->generations;
	control_push(node, PACKET_JOIN, fake->generation);
}

static void process_leave(struct net_node *node)
{
	node->process->in = false;
	if (node->up)
		control_push(node, PACKET_LEAVE, node->process->generation);
}

static void recent_keep(struct net *net, struct packet *packet)
{
	struct packet **slot = &net->recent[net->recent_count++ % NET_RECENT_MAX];

	packet_drop(*slot);
	*slot = packet;
	packet->references++;
}

uint32_t net_recent(const struct net *net, uint32_t back, const uint8_t **bytes, size_t *size)
{
	if (back >= NET_RECENT_MAX || back >= net->recent_count)
		return 0;
	const struct packet *packet = net->recent[(net->recent_count - 1 - back) % NET_RECENT_MAX];
	*bytes = packet->bytes;
	*size = packet->size;
	return packet->from;
}

void net_inject(struct net *net, uint32_t from, const uint8_t *bytes, size_t size)
{
	struct net_node *node = &net->nodes[from];

	if (!node->ring || node->ring->frozen)
		return;
	/* Its knowledge is empty: what is forged proves nothing. */
	struct packet *packet = packet_new(net, PACKET_MESSAGE, from, bytes, size);
	ring_order(node->ring, packet);
	packet_drop(packet);
}

static int fake_send(struct group *group, const uint8_t *bytes, size_t size, struct err *err)
{
	struct group_fake *fake = (struct group_fake *)group;
	struct net_node *node = &fake->net->nodes[group->node];

	assert(size && size <= GROUP_MESSAGE_MAX);
	if (!node->up || !fake->wants_in)
		return err_set(err, ERR_UNAVAILABLE, "not in the group");
	if (node->outbox.count >= OUTBOX_MAX || timeline_now_us(fake->net->timeline) < node->busy_until_us)
		return err_set(err, ERR_BUSY, "the group's queue is full");

	struct packet *packet = packet_new(fake->net, PACKET_MESSAGE, node->id, bytes, size);
	packet->generation = fake->generation;
	knowledge_pack(fake->net, packet);
	recent_keep(fake->net, packet);
	outbox_push(node, packet);
	return 0;
}

static void fake_leave(struct group *group)
{
	struct group_fake *fake = (struct group_fake *)group;

	if (!fake->wants_in)
		return;
	fake->wants_in = false;
	fake->leaves++;
	process_leave(&fake->net->nodes[group->node]);
}

static void fake_join(struct group *group)
{
	struct group_fake *fake = (struct group_fake *)group;
	struct net_node *node = &fake->net->nodes[group->node];

	if (fake->wants_in)
		return;
	fake->wants_in = true;
	if (node->up)
		net_process_join(node);
}

static uint32_t fake_token_ms(struct group *group)
{
	return ((struct group_fake *)group)->net->config.token_ms;
}

static void fake_force(struct group *group)
{
	votes_force(&((struct group_fake *)group)->net->nodes[group->node]);
}

static const struct group_ops ops = {.send = fake_send, .leave = fake_leave, .join = fake_join, .force = fake_force,
	.token_ms = fake_token_ms};

struct group_fake *group_fake_new(struct net *net, uint32_t node, const char *node_name, struct loop_fake *loop,
	const struct group_callbacks *callbacks)
{
	struct group_fake *fake = calloc(1, sizeof(*fake));

	assert(fake && !net->nodes[node].process);
	fake->group = (struct group){.ops = &ops, .node = node};
	snprintf(fake->group.node_name, NAME_BYTES, "%s", node_name);
	fake->net = net;
	fake->loop = loop;
	fake->callbacks = *callbacks;
	net->nodes[node].process = fake;
	return fake;
}

void group_fake_free(struct group_fake *fake)
{
	if (!fake)
		return;
	struct net_node *node = &fake->net->nodes[fake->group.node];
	if (fake->wants_in)
		process_leave(node);
	node->process = NULL;
	free(fake);
}

struct group *group_fake_port(struct group_fake *fake)
{
	return &fake->group;
}

uint64_t net_view_formed_us(const struct net *net, uint32_t node)
{
	return net->nodes[node].process ? net->nodes[node].process->view_formed_us : 0;
}

void net_busy(struct net *net, uint32_t node, uint64_t duration_us)
{
	net->nodes[node].busy_until_us = timeline_now_us(net->timeline) + duration_us;
}
