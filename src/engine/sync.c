/* SPDX-License-Identifier: Apache-2.0
 * A new view: everybody comes to the same history before anybody acts (design §4).
 *
 *   view ──▶ lowest member: BEGIN(nonce) ──▶ all: STATE(nonce, what I have) ──▶ all know who is best: the youngest term,
 *   then the longest log, then the lowest id ──▶ best: TRAIL…, SNAPSHOT…, ENTRY…, END ──▶ all: that log and the new term are on
 *   disk here (ACK) ──▶ enough members: lowest member: the view event, first of the term ──▶ durable at enough ──▶ done
 *
 * Whose log is the best, and what becomes of a history that two halves have gone on with apart: fork.c. How the best one's log
 * comes to the others: transfer.c.
 *
 * The nonce ties the STATEs to this view: one that was sent in an earlier view and is delivered now would speak of a log
 * that has grown since, and a committed entry could be left out. The pledge makes a term one view's own: before its first
 * event exists anywhere, a majority has the term on disk, so that no later view can come to the same number, also when
 * every daemon that had the event in memory was killed. Two entries of equal index and term are the same entry. */
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

void sync_out(struct engine *engine, const char *why)
{
	bool was_in = engine->sync != SYNC_OUT;

	if (was_in)
		engine->out_ms = loop_now_ms(engine->ports.loop);
	half_end(engine);
	engine->sync = SYNC_OUT;
	engine->last_of_two = engine->sole = false;
	engine->sole_over = 0;
	engine->view.quorate = false;
	transfer_reset(engine);
	snprintf(engine->out_reason, sizeof(engine->out_reason), "%.200s", why);
	if (was_in)
		engine_trace(engine, "out of the view: %s", why);
	fence_stop(engine);
	service_view_lost(engine);
	engine_status_changed(engine);
}

static void send_begin(struct engine *engine)
{
	struct message begin = {.kind = MESSAGE_BEGIN};

	/* Differs from every nonce that this or another daemon has used: node, start, count. */
	engine->nonce_count++;
	begin.nonce = (engine->config.incarnation * 64 + engine->ports.group->node) ^ (engine->nonce_count << 48);
	engine_send(engine, &begin, NULL);
}

/* Out by one's own choice: the others go on without this node; the new view at its return brings it up to date. */
void sync_leave(struct engine *engine, const char *why)
{
	group_leave(engine->ports.group);
	engine->rejoin_ms = loop_now_ms(engine->ports.loop) + REJOIN_MS;
	sync_out(engine, why);
}

/* Neither out nor done, and nothing has come for so long. */
static bool stands_still(const struct engine *engine, uint64_t limit_ms)
{
	return engine->sync > SYNC_HALF && engine->sync != SYNC_DONE &&
	       loop_now_ms(engine->ports.loop) > engine->sync_since_ms + limit_ms;
}

/* The others agree on what this program cannot read, and would skip: they would not agree with it (decision 0031). */
void sync_too_old(struct engine *engine, uint32_t from, uint32_t needs)
{
	char why[REASON_BYTES];

	snprintf(why, sizeof(why), "%.63s speaks protocol %u of watari, this program knows %d: upgrade this node",
		cluster_node_name(engine->cluster, from), needs, MESSAGE_PROTOCOL);
	sync_leave(engine, why);
	engine->rejoin_ms = loop_now_ms(engine->ports.loop) + TOO_OLD_MS;
}

void sync_look(struct engine *engine)
{
	uint64_t now = loop_now_ms(engine->ports.loop);

	if (engine->rejoin_ms && now >= engine->rejoin_ms && !engine->flush_since_ms && !reconcile_is_stuck(engine)) {
		engine->rejoin_ms = 0;
		group_join(engine->ports.group);
	} else if (!engine->rejoin_ms && engine->flush_since_ms &&
		   now > engine->flush_since_ms + engine->config.disk_limit_ms) {
		sync_leave(engine, "the disk does not answer; waiting for it");
	} else if (engine_lowest(engine) == engine->ports.group->node && stands_still(engine, SYNC_AGAIN_MS)) {
		engine->sync_since_ms = now;
		send_begin(engine);
	} else if (stands_still(engine, SYNC_LIMIT_MS)) {
		sync_leave(engine, "the others do not begin to sync; joining anew");
	}
}

/* The newest view event in the log, committed or not. */
static uint64_t last_view(const struct engine *engine)
{
	CLEANUP_FREE struct event *event = malloc(sizeof(*event));
	uint64_t members = engine->cluster->members;

	assert(event);
	for (size_t i = 0; i < engine->tail.count; i++) {
		const struct entry *entry = &engine->tail.items[i];
		if (!schema_decode(&event_schema, entry->bytes, entry->size, event, NULL) && event->kind == EVENT_VIEW)
			members = event->members;
	}
	return members;
}

/* Quorum counts the nodes of the ring, but only daemons keep the log: a majority of them must be here, or a history
 * could be committed that the next view knows nothing of.
 *
 * Of two nodes one may go on alone, and only the one that cannot have missed anything: it was synced with the other and
 * not out since, or its log says that it was alone already. (The other's log would not say so: what two commit together
 * both have on disk.) */
static bool enough_members(struct engine *engine, const struct group_view *view, char *why, size_t size)
{
	uint32_t members = (uint32_t)__builtin_popcountll(view->members);
	uint32_t needed = view->expected_votes / 2 + 1;

	if (members >= needed)
		engine->forced = false;
	if (members >= needed || engine->forced)
		return true;
	if (view->expected_votes != 2) {
		snprintf(why, size, "only %u of %u nodes' daemons are here, %u are needed", members,
			view->expected_votes, needed);
		return false;
	}
	snprintf(why, size, "the other node's daemon is not here, and may know more than this one");
	return engine->last_of_two || last_view(engine) == view->members;
}

/* Alone in its ring, and the witness's vote has not come yet, or has gone: this one is still the last that was synced with the
 * other. Without the other's power proven off nobody goes on (half.c), and this daemon runs. */
static bool waits_for_the_witness(const struct engine *engine, const struct group_view *view)
{
	return view->witness && view->expected_votes == 2 && !view->quorate &&
	       view->members == node_bit(engine->ports.group->node) && view->ring == view->members;
}

static void no_view(struct engine *engine, const struct group_view *view)
{
	char why[REASON_BYTES];
	bool last_of_two = engine->last_of_two && waits_for_the_witness(engine, view);

	if (view->quorate || !view->stranger[0]) {
		sync_out(engine, view->quorate ? "this node is not in the view" : "no quorum");
		engine->last_of_two = last_of_two;
		return;
	}
	snprintf(why, sizeof(why), "no quorum: the others here run cluster %s, this node is configured for cluster %s",
		view->stranger, engine->config.cluster_uuid);
	sync_out(engine, why);
}

void sync_on_view(void *ctx, const struct group_view *view)
{
	struct engine *engine = ctx;
	char why[REASON_BYTES];

	engine->view = *view;
	engine->in_group = true;
	transfer_reset(engine);
	memset(engine->peers, 0, sizeof(engine->peers));
	engine->nonce = 0;
	lease_on_view(engine);
	if (!view->quorate || !(view->members & node_bit(engine->ports.group->node))) {
		no_view(engine, view);
		return;
	}
	if (!enough_members(engine, view, why, sizeof(why))) {
		sync_out(engine, why);
		return;
	}
	if (view->members & ~node_bit(engine->ports.group->node)) {
		engine->sole = false;
		engine->sole_over = 0;
	} else if (view->expected_votes == 2 && (view->ring & ~view->members)) {
		engine->sole = true; /* its daemon is away, and waits for this one when it starts */
	}
	if (half_waits(engine, view, last_view(engine) == view->members)) {
		service_view_lost(engine);
		half_begin(engine);
		return;
	}
	half_end(engine);
	sync_begin(engine);
}

void sync_begin(struct engine *engine)
{
	fence_spare(engine);
	engine->sync = SYNC_BEGIN;
	engine->sync_since_ms = loop_now_ms(engine->ports.loop);
	service_view_lost(engine);
	snprintf(engine->out_reason, sizeof(engine->out_reason), "a new view is being synced");
	if (engine_lowest(engine) == engine->ports.group->node)
		send_begin(engine);
	engine_status_changed(engine);
}

/* A sync is begun again when it stands still, not when it takes long: a large state over a slow network never ended. */
static void sync_goes_on(struct engine *engine)
{
	engine->sync_since_ms = loop_now_ms(engine->ports.loop);
}

static void on_begin(struct engine *engine, uint32_t from, const struct message *message)
{
	struct message state = {.kind = MESSAGE_STATE, .nonce = message->nonce};

	if (from != engine_lowest(engine) || engine->sync <= SYNC_HALF || !message->nonce ||
		message->nonce == engine->nonce)
		return;
	transfer_reset(engine);
	memset(engine->peers, 0, sizeof(engine->peers));
	engine->nonce = message->nonce;
	service_view_lost(engine);
	engine->sync = SYNC_COLLECT;
	engine->sync_since_ms = loop_now_ms(engine->ports.loop);
	state.term = engine->last_term;
	state.index = log_last_index(engine);
	state.applied = engine->cluster->index;
	state.digest = engine->cluster->digest;
	state.trail = engine->history_index;
	state.now_ms = engine_told_ms(engine);
	fork_state(engine, &state);
	memcpy(state.boot_id, engine->config.boot_id, sizeof(state.boot_id));
	state.pledged = engine->pledged > engine->term ? engine->pledged : engine->term;
	engine->lease.current = false;
	engine->lease.stated_ms = loop_now_ms(engine->ports.loop);
	engine_send(engine, &state, NULL);
}

static void on_state(struct engine *engine, uint32_t from, const struct message *message)
{
	uint64_t term = engine->view.ring_seq;

	/* Nobody has applied what he does not have: such a message would leave no best member. */
	if (engine->sync != SYNC_COLLECT || message->nonce != engine->nonce || message->applied > message->index)
		return;
	struct peer told = {.told = true,
		.term = message->term,
		.index = message->index,
		.applied = message->applied,
		.digest = message->digest,
		.trail = message->trail,
		.pledged = message->pledged};
	if (!fork_peer(&told, message)) {
		engine->dropped++;
		return;
	}
	sync_goes_on(engine);
	engine_clock_hear(engine, message->now_ms);
	memcpy(told.boot_id, message->boot_id, sizeof(told.boot_id));
	engine->peers[from - 1] = told;
	engine->best = 0;
	for (uint32_t id = 1; id <= NODES_MAX; id++) {
		const struct peer *peer = &engine->peers[id - 1];
		if (!(engine->view.members & node_bit(id)))
			continue;
		if (!peer->told)
			return;
		/* Rises also when corosync has lost its own ring number. */
		if (peer->term >= term)
			term = peer->term + 1;
		if (peer->pledged >= term)
			term = peer->pledged + 1;
	}
	engine->best = fork_best(engine);
	engine->term = term;
	const struct peer *own = &engine->peers[engine->ports.group->node - 1];
	const struct peer *best = &engine->peers[engine->best - 1];
	if (own->term == best->term && own->index == best->index && fork_holds(best, own))
		lease_on_current(engine);
	else
		lease_on_behind(engine);
	transfer_begin(engine);
}

uint32_t sync_needed(const struct engine *engine)
{
	uint32_t members = (uint32_t)__builtin_popcountll(engine->view.members);
	uint32_t majority = engine->view.expected_votes / 2 + 1;

	return majority < members ? majority : members;
}

static void send_view_event(struct engine *engine)
{
	CLEANUP_FREE struct event *event = calloc(1, sizeof(*event));

	assert(event);
	event->kind = EVENT_VIEW;
	event->members = engine->view.members;
	event->ring = engine->view.ring;
	event->nonce = engine->nonce;
	if (engine->sole_over) {
		event->target = engine->sole_over;
		event->proof = engine->sole_proof;
		event->was_on = engine->sole_was_on;
		memcpy(event->text, engine->sole_text, sizeof(event->text));
	}
	for (uint32_t id = 1; id <= NODES_MAX; id++) {
		if (!(engine->view.members & node_bit(id)) || !engine->peers[id - 1].boot_id[0])
			continue;
		struct member_boot *boot = &event->boots[event->boot_count++];
		boot->node = id;
		memcpy(boot->boot_id, engine->peers[id - 1].boot_id, sizeof(boot->boot_id));
		fork_report(engine, id, boot);
	}
	sync_send_event(engine, event);
}

void sync_on_ready(struct engine *engine)
{
	uint32_t ready = 0;

	if (engine->sync != SYNC_COMMIT || engine->first_sent || engine_lowest(engine) != engine->ports.group->node)
		return;
	for (uint32_t i = 0; i < NODES_MAX; i++)
		ready += engine->peers[i].ready;
	if (ready < sync_needed(engine))
		return;
	engine->first_sent = true;
	send_view_event(engine);
}

static void on_end(struct engine *engine, const struct message *message)
{
	const char *why = transfer_adopt(engine);

	if (!why && log_last_index(engine) != message->index)
		why = "the log that was sent does not end where it should";
	if (why) {
		sync_leave(engine, why);
		return;
	}
	for (uint32_t i = 0; i < NODES_MAX; i++) {
		engine->peers[i].acked = 0;
		engine->peers[i].ready = false;
	}
	transfer_reset(engine);
	engine->sync = SYNC_COMMIT;
	engine->first_index = log_last_index(engine) + 1;
	if (engine->durable > log_last_index(engine))
		engine->durable = log_last_index(engine);
	engine->first_sent = false;
	engine->ports.store->ops->pledge(engine->ports.store, engine->term);
	log_flush(engine);
}

void sync_on_message(struct engine *engine, uint32_t from, const struct message *message, const uint8_t *payload)
{
	if (message->kind == MESSAGE_BEGIN) {
		on_begin(engine, from, message);
		return;
	}
	if (message->kind == MESSAGE_STATE) {
		on_state(engine, from, message);
		return;
	}
	if (engine->sync != SYNC_TRANSFER || message->nonce != engine->nonce || from != engine->best)
		return;
	sync_goes_on(engine);
	if (message->kind == MESSAGE_END)
		on_end(engine, message);
	else if (message->kind == MESSAGE_ENTRY && !log_can_read(payload, (size_t)message->payload_size))
		sync_too_old(engine, from, message->protocol);
	else if (engine->best != engine->ports.group->node) /* what oneself sends, one has */
		transfer_take(engine, message, payload);
}

void sync_send_event(struct engine *engine, struct event *event)
{
	uint8_t bytes[EVENT_BYTES_MAX];
	struct message message = {.kind = MESSAGE_EVENT, .term = engine->term};

	event->node = engine->ports.group->node;
	event->now_ms = engine_cluster_ms(engine);
	engine_clock_hear(engine, event->now_ms);
	memcpy(event->boot_id, engine->config.boot_id, sizeof(event->boot_id));
	message.payload_size = schema_encode(&event_schema, event, bytes, sizeof(bytes));
	assert(message.payload_size <= sizeof(bytes));
	/* Not sent: the periodic look finds what is missing and sends it again. */
	engine_send(engine, &message, bytes);
}

void sync_done(struct engine *engine)
{
	engine->sync = SYNC_DONE;
	engine->last_of_two = true;
	engine->out_reason[0] = 0;
	engine_trace(engine, "synced: term %llu, index %llu", (unsigned long long)engine->term,
		(unsigned long long)engine->cluster->index);
	for (uint32_t i = 0; i < engine->cluster->vm_count; i++)
		reconcile_dirty(engine, i);
	lease_on_synced(engine);
	selffence_on_synced(engine);
	engine->facts_sent_ms = 0;
	reconcile_look_soon(engine);
	service_send_pending(engine);
	engine_status_changed(engine);
}
