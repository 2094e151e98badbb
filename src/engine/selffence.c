/* SPDX-License-Identifier: Apache-2.0
 * A node that may be lost to the others ends its guests, or is ended by its watchdog (docs/self-fencing.md).
 *
 *            in sync, the timer took the time           asked to leave, token too long, taken away
 *   WAIT ─────────────────────────────────▶ ARMED ─────────────────────────────▶ WITHDRAW
 *    ▲  ▲                                   │   │ timer lost                       │ the log says 0: disarmed
 *    │  └── no lease, and no guest here: ───┘   ▼                                  ▼
 *    └───────────── disarmed            REFUSED: again in a while             WAIT or NONE
 *
 * One timer of the loop does all: it asks for the lease, feeds while the lease holds, and ends the guests some time
 * before the watchdog would fire, so that the machine needs no reset. It comes after what was pending in the loop, and
 * nothing else feeds: a daemon that hangs, is stopped or starved lets the watchdog fire.
 *
 * A daemon that was never in sync neither feeds nor opens the timer: opening starts its time anew, and the time of the
 * daemon before it must go on until this node is known to be one of the cluster. */
#include "core/timing.h"
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

enum {
	AGAIN_MS = 30 * 1000,	  /* a watchdog that was refused */
	KILLS_A_TURN = 64,	  /* the next turn sees to the others */
	LEAVE_LIMIT_MS = 3000,	  /* for a daemon that ends to be known to, where nobody relies on a watchdog */
	TOKEN_UNKNOWN_MS = 60000, /* for the period alone */
};

static const uint8_t allowed[] = {
	[SELFFENCE_NONE] = 1u << SELFFENCE_WAIT,
	[SELFFENCE_WAIT] =
		1u << SELFFENCE_ARMED | 1u << SELFFENCE_REFUSED | 1u << SELFFENCE_NONE | 1u << SELFFENCE_WAIT,
	[SELFFENCE_ARMED] = 1u << SELFFENCE_WAIT | 1u << SELFFENCE_WITHDRAW | 1u << SELFFENCE_REFUSED,
	[SELFFENCE_WITHDRAW] = 1u << SELFFENCE_WAIT | 1u << SELFFENCE_NONE | 1u << SELFFENCE_REFUSED,
	[SELFFENCE_REFUSED] =
		1u << SELFFENCE_ARMED | 1u << SELFFENCE_REFUSED | 1u << SELFFENCE_WAIT | 1u << SELFFENCE_NONE,
};

static void go(struct engine *engine, enum selffence_state state, const char *format, ...) PRINTF_LIKE(3, 4);
static void turn(void *ctx);

static void go(struct engine *engine, enum selffence_state state, const char *format, ...)
{
	struct selffence *self = &engine->selffence;
	char note[sizeof(self->note)];
	va_list args;

	assert(allowed[self->state] & 1u << state);
	va_start(args, format);
	vsnprintf(note, sizeof(note), format, args);
	va_end(args);
	/* Cut where it is too long; never in the middle of a sequence. */
	size_t end = strlen(note);
	while (end && !schema_text_ok(note, end))
		note[--end] = 0;
	bool same = self->state == state && !strcmp(self->note, note);
	self->state = state;
	memcpy(self->note, note, sizeof(note));
	if (same)
		return;
	engine_trace(engine, "watchdog: %s", note);
	engine->facts_sent_ms = 0;
	reconcile_look_soon(engine);
	engine_status_changed(engine);
}

void selffence_turn_soon(struct engine *engine)
{
	struct selffence *self = &engine->selffence;

	loop_timer_cancel(engine->ports.loop, self->timer);
	self->timer = loop_timer_set(engine->ports.loop, 0, turn, engine);
}

static uint64_t period_ms(const struct engine *engine);

/* All who are late ask at once, and all who are asked answer: without a shortest time between two messages of a node
 * that is a storm, which keeps the view from its sync. */
void selffence_turn_hurried(struct engine *engine)
{
	struct selffence *self = &engine->selffence;
	uint64_t now = loop_now_ms(engine->ports.loop);
	uint64_t next = self->turned_ms + period_ms(engine) / 4;

	loop_timer_cancel(engine->ports.loop, self->timer);
	self->timer = loop_timer_set(engine->ports.loop, next > now ? next - now : 0, turn, engine);
}

static bool is_armed(const struct engine *engine)
{
	return engine->selffence.state == SELFFENCE_ARMED || engine->selffence.state == SELFFENCE_WITHDRAW;
}

static const struct node_facts *told(const struct engine *engine)
{
	return &cluster_node(engine->cluster, engine->ports.group->node)->facts;
}

/* The others may count on this node's end: by what the log says of this boot, or because a timer runs. */
static bool obliged(const struct engine *engine)
{
	return is_armed(engine) ||
	       (told(engine)->watchdog_ms && !strcmp(told(engine)->boot_id, engine->config.boot_id));
}

bool selffence_as_told(const struct engine *engine)
{
	return !told(engine)->watchdog_ms ||
	       (is_armed(engine) && engine->selffence.timeout_ms <= told(engine)->watchdog_ms);
}

void selffence_facts(struct engine *engine, struct node_facts *facts)
{
	facts->token_ms = group_token_ms(engine->ports.group);
	facts->leaving = engine->selffence.leaving;
	facts->watchdog_ms = engine->selffence.state == SELFFENCE_ARMED ? engine->selffence.timeout_ms : 0;
	snprintf(facts->watchdog, sizeof(facts->watchdog), "%s", engine->selffence.note);
}

/* ---- the lease ---- */

/* The others count with the token that the log says; where that differs from the real one, the shorter holds here. */
static uint32_t token_ms(const struct engine *engine)
{
	uint32_t token = group_token_ms(engine->ports.group);

	if (told(engine)->watchdog_ms && told(engine)->token_ms && told(engine)->token_ms < token)
		token = told(engine)->token_ms;
	return token;
}

static bool lease_holds(const struct engine *engine)
{
	return engine->lease.proven_ms &&
	       loop_now_ms(engine->ports.loop) <= engine->lease.proven_ms + timing_lease_ms(token_ms(engine));
}

/* ---- guests ---- */

struct guests {
	uint32_t count;
	uint32_t listed;
	char uuids[KILLS_A_TURN][UUID_BYTES];
};

/* That run, may be let run by what was asked of the hypervisor before, or are not proven gone. One that waits for a
 * state runs only when it is told to, and nobody tells it out of sync. */
static void find_guest(void *ctx, const char *vm, const struct hv_info *info)
{
	struct guests *guests = ctx;

	if (info->state == HV_ABSENT || info->state == HV_PREPARING || info->state == HV_STANDBY ||
		info->state == HV_LOADING)
		return;
	guests->count++;
	if (guests->listed < KILLS_A_TURN)
		snprintf(guests->uuids[guests->listed++], UUID_BYTES, "%s", vm);
}

static void guests_find(struct engine *engine, struct guests *guests)
{
	struct hypervisor *hv = engine->ports.hypervisor;

	*guests = (struct guests){.count = 0};
	hv->ops->each(hv, find_guest, guests);
}

static bool has_guests(struct engine *engine)
{
	struct guests guests;

	guests_find(engine, &guests);
	return guests.count;
}

static void guests_kill(struct engine *engine, const char *why)
{
	struct hypervisor *hv = engine->ports.hypervisor;
	struct guests guests;

	guests_find(engine, &guests);
	if (guests.count && !engine->selffence.killing)
		engine_trace(engine, "watchdog: killing %u guests: %s", guests.count, why);
	engine->selffence.killing = guests.count;
	for (uint32_t i = 0; i < guests.listed; i++) {
		if (hv->ops->destroy)
			hv->ops->destroy(hv, guests.uuids[i]);
		else
			hv->ops->kill(hv, guests.uuids[i]);
	}
}

/* ---- arming and disarming ---- */

static void leave_now(struct engine *engine)
{
	struct selffence *self = &engine->selffence;
	void (*left)(void *ctx) = self->left;

	/* From here on this node commits nothing. */
	self->left = NULL;
	group_leave(engine->ports.group);
	sync_out(engine, "the daemon ends");
	left(self->left_ctx);
}

/* Why the configured watchdog proves nothing here; NULL: it does. */
static const char *useless(const struct engine *engine, uint32_t timeout_ms, char *text, size_t size)
{
	uint32_t token = group_token_ms(engine->ports.group);

	if (engine->view.two_node)
		snprintf(text, size, "not armed: with two_node each half keeps quorum; a fence device decides");
	else if (engine->view.witness && engine->view.expected_votes == 2)
		/* A half with the witness's vote has no lease before its fence is over: it would end its own guests. */
		snprintf(text, size, "not armed: of two nodes and a witness, a fence device decides");
	else if (!token)
		snprintf(text, size, "not armed: corosync's token is not known");
	else if (timing_watchdog_needed_ms(token) > timeout_ms)
		snprintf(text, size, "not armed: %u ms are too short for a token of %u ms (%llu ms)", timeout_ms, token,
			(unsigned long long)timing_watchdog_needed_ms(token));
	else
		return NULL;
	return text;
}

static bool arm(struct engine *engine)
{
	struct selffence *self = &engine->selffence;
	uint64_t now = loop_now_ms(engine->ports.loop);
	char name[WATCHDOG_NAME_BYTES];
	struct err err;

	if (watchdog_arm(self->watchdog, self->timeout_ms, &err) < 0) {
		self->again_ms = now + AGAIN_MS;
		go(engine, SELFFENCE_REFUSED, "not armed: %s", err.text);
		return false;
	}
	watchdog_name(self->watchdog, name);
	self->held_ms = now;
	self->late = self->killing = false;
	if (self->state != SELFFENCE_ARMED && self->state != SELFFENCE_WITHDRAW)
		go(engine, SELFFENCE_ARMED, "%.70s, %u ms", name, self->timeout_ms);
	return true;
}

static void arm_if_due(struct engine *engine)
{
	struct selffence *self = &engine->selffence;
	char text[96];

	if (engine->sync != SYNC_DONE || self->leaving ||
		(self->state == SELFFENCE_REFUSED && loop_now_ms(engine->ports.loop) < self->again_ms))
		return;
	if (useless(engine, self->timeout_ms, text, sizeof(text)))
		go(engine, SELFFENCE_WAIT, "%s", text);
	else if (lease_holds(engine))
		arm(engine);
}

/* To what was configured last, or to nothing. */
static void next_watchdog(struct engine *engine, const char *why)
{
	struct selffence *self = &engine->selffence;
	char text[96];

	self->watchdog = self->next;
	self->timeout_ms = self->next_ms;
	if (!self->watchdog)
		go(engine, SELFFENCE_NONE, "none is configured");
	else if (useless(engine, self->timeout_ms, text, sizeof(text)))
		go(engine, SELFFENCE_WAIT, "%s", text);
	else
		go(engine, SELFFENCE_WAIT, "%s", why);
}

static void disarm(struct engine *engine, const char *why)
{
	struct err err;

	if (watchdog_disarm(engine->selffence.watchdog, &err) < 0) {
		/* Its time goes on; the next turn tries again, and until then it is as if it were armed. */
		engine_trace(engine, "watchdog: cannot be disarmed: %s", err.text);
		return;
	}
	next_watchdog(engine, why);
}

static void withdraw(struct engine *engine, const char *why)
{
	go(engine, SELFFENCE_WITHDRAW, "being disarmed: %s", why);
}

/* The log has this node's last report: nobody relies on what it says is gone. */
static bool is_known(const struct engine *engine)
{
	const struct node_facts *facts = told(engine);

	return engine->sync == SYNC_DONE && !strcmp(facts->boot_id, engine->config.boot_id) && !facts->watchdog_ms &&
	       facts->leaving == engine->selffence.leaving;
}

/* Guests run on only where nobody counts on their end, or where the time of another daemon's timer goes on anyway. */
static void leave_if_done(struct engine *engine)
{
	struct selffence *self = &engine->selffence;
	bool over =
		is_known(engine) || engine->sync != SYNC_DONE || loop_now_ms(engine->ports.loop) >= self->leave_by_ms;

	if (self->left && !is_armed(engine) && over && (!obliged(engine) || !self->held_ms || !has_guests(engine)))
		leave_now(engine);
}

/* Not within the application of events: what comes of it may end this node's part in the view. */
void selffence_on_applied(struct engine *engine)
{
	struct selffence *self = &engine->selffence;

	if (self->state == SELFFENCE_WITHDRAW || self->leaving)
		selffence_turn_soon(engine);
}

/* ---- the turn ---- */

/* The clock is read before the feed and after it: a process that is stopped in between may feed long after its lease,
 * and such a feed does not count; what is due then is done at once. */
static void feed(struct engine *engine)
{
	struct selffence *self = &engine->selffence;
	uint64_t before = loop_now_ms(engine->ports.loop);
	struct err err;

	if (watchdog_feed(self->watchdog, &err) < 0) {
		engine_trace(engine, "watchdog: %s", err.text);
		if (!arm(engine))
			return;
	}
	if (!lease_holds(engine))
		return;
	self->held_ms = before;
	if (self->late)
		engine_trace(engine, "watchdog: fed again");
	self->late = self->killing = false;
}

/* The lease is over, or the feed came too late. */
static void starve(struct engine *engine)
{
	struct selffence *self = &engine->selffence;
	uint64_t now = loop_now_ms(engine->ports.loop);
	uint32_t timeout = is_armed(engine) ? self->timeout_ms : told(engine)->watchdog_ms;
	bool due = now >= self->held_ms + timeout - timing_kill_ms(timeout);

	if (!self->late)
		engine_trace(engine, "watchdog: not fed any more: too few members of a synced view answer");
	self->late = true;
	if (!due && !self->leaving)
		return;
	if (is_armed(engine) && !has_guests(engine))
		disarm(engine, "disarmed: out of sync, and no guest runs here");
	else if (due && now >= self->patience_ms)
		guests_kill(engine, "this node may be lost to the others, who count on their end");
}

/* The daemon was stopped or starved for a while, and what the others have answered meanwhile waits in the loop: it is
 * read before guests are killed. The watchdog does not wait. */
static void be_patient(struct engine *engine, uint64_t period_ms)
{
	struct selffence *self = &engine->selffence;
	uint64_t now = loop_now_ms(engine->ports.loop);

	if (self->turned_ms && now > self->turned_ms + 2 * period_ms)
		self->patience_ms = now + 2 * period_ms;
	self->turned_ms = now;
}

/* Policy alone: nobody counts on it. */
static void quorum_loss(struct engine *engine)
{
	struct selffence *self = &engine->selffence;
	uint64_t now = loop_now_ms(engine->ports.loop);

	/* A half (half.c) has quorum, and fences the other one. */
	if (engine->sync == SYNC_DONE || engine->sync == SYNC_HALF) {
		self->out_ms = 0;
		self->killing = false;
	} else if (!self->out_ms) {
		self->out_ms = now;
	} else if (engine->config.quorum_loss_stop &&
		   now >= self->out_ms + timing_quorum_loss_ms(group_token_ms(engine->ports.group))) {
		guests_kill(engine, "out of sync, and quorum_loss=stop");
	}
}

static uint64_t period_ms(const struct engine *engine)
{
	uint32_t token = group_token_ms(engine->ports.group);

	return timing_lease_period_ms(token ? token : TOKEN_UNKNOWN_MS);
}

static void turn_later(struct engine *engine)
{
	struct selffence *self = &engine->selffence;

	loop_timer_cancel(engine->ports.loop, self->timer);
	self->timer = NULL;
	if (self->state != SELFFENCE_NONE || engine->config.quorum_loss_stop || obliged(engine) ||
		lease_is_asked(engine) || self->left)
		self->timer = loop_timer_set(engine->ports.loop, period_ms(engine), turn, engine);
	else
		self->turned_ms = 0;
}

static void turn(void *ctx)
{
	struct engine *engine = ctx;
	struct selffence *self = &engine->selffence;
	bool asks = self->state != SELFFENCE_NONE || obliged(engine);
	char text[96];

	self->timer = NULL;
	be_patient(engine, period_ms(engine));
	if (engine->sync != SYNC_OUT && (asks || lease_is_asked(engine)))
		lease_send(engine, asks);
	if (self->state == SELFFENCE_WAIT || self->state == SELFFENCE_REFUSED)
		arm_if_due(engine);
	if (self->state == SELFFENCE_REFUSED && (self->next != self->watchdog || self->next_ms != self->timeout_ms))
		next_watchdog(engine, "not armed yet");
	if (self->state == SELFFENCE_WITHDRAW && is_known(engine))
		disarm(engine, self->leaving ? "disarmed: the daemon ends" : "disarmed: it is to be another one");
	if (self->state == SELFFENCE_ARMED && engine->sync == SYNC_DONE &&
		useless(engine, self->timeout_ms, text, sizeof(text)))
		withdraw(engine, text);
	if (is_armed(engine) && lease_holds(engine))
		feed(engine);
	if (!is_armed(engine) && lease_holds(engine)) {
		self->held_ms = loop_now_ms(engine->ports.loop);
		self->late = false;
	}
	/* A daemon that was never in sync holds nothing back: the time of the one before it goes on. */
	if (obliged(engine) && self->held_ms && !lease_holds(engine))
		starve(engine);
	else if (!obliged(engine))
		quorum_loss(engine);
	leave_if_done(engine);
	turn_later(engine);
}

void selffence_turn_later(struct engine *engine)
{
	if (!engine->selffence.timer)
		turn_later(engine);
}

void selffence_on_synced(struct engine *engine)
{
	struct selffence *self = &engine->selffence;

	if (self->state == SELFFENCE_WAIT || self->state == SELFFENCE_REFUSED)
		arm_if_due(engine);
}

void selffence_start(struct engine *engine)
{
	engine_set_watchdog(engine, engine->ports.watchdog, engine->config.watchdog_ms);
}

void selffence_fini(struct engine *engine)
{
	loop_timer_cancel(engine->ports.loop, engine->selffence.timer);
}

void engine_set_watchdog(struct engine *engine, struct watchdog *watchdog, uint32_t timeout_ms)
{
	struct selffence *self = &engine->selffence;

	self->next = watchdog;
	self->next_ms = timeout_ms ? timeout_ms : WATCHDOG_DEFAULT_MS;
	if (self->state == SELFFENCE_ARMED)
		withdraw(engine, "it is to be another one");
	else if (self->state == SELFFENCE_NONE && !watchdog)
		snprintf(self->note, sizeof(self->note), "none is configured");
	else if (self->state != SELFFENCE_WITHDRAW)
		next_watchdog(engine, "not armed: this node is not in sync yet");
	turn_later(engine);
}

const struct watchdog *engine_watchdog(const struct engine *engine)
{
	return engine->selffence.watchdog;
}

void engine_leave(struct engine *engine, void (*left)(void *ctx), void *ctx)
{
	struct selffence *self = &engine->selffence;

	self->leaving = true;
	self->left = left;
	self->left_ctx = ctx;
	self->leave_by_ms = loop_now_ms(engine->ports.loop) + LEAVE_LIMIT_MS;
	self->next = self->watchdog;
	self->next_ms = self->timeout_ms;
	if (self->state == SELFFENCE_ARMED)
		withdraw(engine, "the daemon ends");
	engine->facts_sent_ms = 0;
	reconcile_look_soon(engine);
	selffence_turn_soon(engine); /* left() comes from the loop, never within this call */
}
