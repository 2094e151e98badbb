/* SPDX-License-Identifier: Apache-2.0
 * Fence devices asked by a person, on this node and beside the log: does a device fit its agent, what does it say, and
 * (a test) does it switch the machine that it should. Fencing itself never comes through here (fence.c). */
#include "engine/internal.h"
#include "engine/service.h"

#include <assert.h>
#include <string.h>

/* Orders of fence.c are numbered by the log; ours must not be taken for them. */
#define ASK_BIT (UINT64_C(1) << 63)

struct question {
	struct question *next;
	uint64_t id;
	engine_answer_fn *fn; /* NULL: who asked is gone */
	void *ctx;
};

bool ask_is_own(uint64_t id)
{
	return id & ASK_BIT;
}

/* Off the list, so that fn may ask again. */
static struct question *take(struct engine *engine, uint64_t id)
{
	for (struct question **at = &engine->questions; *at; at = &(*at)->next) {
		struct question *question = *at;
		if (question->id != id)
			continue;
		*at = question->next;
		return question;
	}
	return NULL;
}

static void answer(struct engine *engine, uint64_t id, const struct engine_answer *answer)
{
	CLEANUP_FREE struct question *question = take(engine, id);

	if (question && question->fn)
		question->fn(question->ctx, answer);
}

void ask_on_done(struct engine *engine, uint64_t id, enum fence_result result, const char *text)
{
	struct engine_answer said = {.off = result == FENCE_RESULT_OFF, .on = result == FENCE_RESULT_ON};

	said.code = result == FENCE_RESULT_FAILED ? ERR_UNAVAILABLE : ERR_NONE;
	snprintf(said.text, sizeof(said.text), "%s", text);
	answer(engine, id, &said);
}

void ask_on_checked(
	void *ctx, uint64_t id, const struct err *err, const char *text, const struct fence_agent_about *about)
{
	struct engine_answer said = {.code = err ? err->code : ERR_NONE, .about = about};

	snprintf(said.text, sizeof(said.text), "%s", err ? err->text : text);
	answer(ctx, id, &said);
}

/* A person switches a machine off that may be alive and well. Nothing may depend on it, and nobody else may be away:
 * a cluster that has just lost a node must not lose the next one to a test. */
int engine_may_switch_off(const struct engine *engine, uint32_t target, struct err *err)
{
	const struct cluster *cluster = engine->cluster;
	const char *name = cluster_node_name(cluster, target);

	if (engine->sync != SYNC_DONE)
		return err_set(err, ERR_NO_QUORUM, "this node is not in sync: %s", engine->out_reason);
	if (target == engine->ports.group->node)
		return err_set(err, ERR_UNFIT, "%s is this node: ask another one", name);
	for (uint32_t i = 0; i < NODES_MAX; i++)
		if (cluster->nodes[i].id && cluster->nodes[i].state != NODE_ONLINE)
			return err_set(err, ERR_UNFIT, "%s is %s: a test needs all nodes online",
				cluster_node_name(cluster, i + 1), node_state_name((int)cluster->nodes[i].state));
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		const struct vm *vm = &cluster->vms[i];
		if (vm->def.uuid[0] && (vm->owner == target || (vm->task && vm->target == target)))
			return err_set(err, ERR_UNFIT, "%s has VM '%s': move its VMs away first", name, vm->def.name);
	}
	return 0;
}

static void refuse(const struct err *err, engine_answer_fn *fn, void *ctx)
{
	struct engine_answer said = {.code = err->code};

	snprintf(said.text, sizeof(said.text), "%s", err->text);
	fn(ctx, &said);
}

void engine_ask(
	struct engine *engine, enum engine_ask what, const struct fence_device *device, engine_answer_fn *fn, void *ctx)
{
	static const enum fence_action actions[] = {
		[ENGINE_ASK_STATUS] = FENCE_STATUS, [ENGINE_ASK_OFF] = FENCE_OFF, [ENGINE_ASK_ON] = FENCE_ON};
	struct err err;

	if (!engine->ports.fencer) {
		err_set(&err, ERR_UNAVAILABLE, "this daemon runs no fence agents");
		refuse(&err, fn, ctx);
		return;
	}
	if (what == ENGINE_ASK_OFF && engine_may_switch_off(engine, device->node, &err) < 0) {
		refuse(&err, fn, ctx);
		return;
	}
	struct question *question = calloc(1, sizeof(*question));
	assert(question);
	*question = (struct question){
		.next = engine->questions, .id = ASK_BIT | ++engine->questions_asked, .fn = fn, .ctx = ctx};
	engine->questions = question;
	if (what == ENGINE_ASK_CHECK) {
		struct fence_device bounded = *device;
		if (bounded.limit_ms > ENGINE_CHECK_MS)
			bounded.limit_ms =
				ENGINE_CHECK_MS; /* an agent that takes longer to describe itself is broken */
		fencer_check(engine->ports.fencer, question->id, &bounded);
		return;
	}
	struct fence_order order = {.id = question->id, .action = actions[what], .device = *device};
	snprintf(order.node_name, sizeof(order.node_name), "%s", cluster_node_name(engine->cluster, device->node));
	fencer_run(engine->ports.fencer, &order);
}

/* What was begun goes to its end: an agent that is stopped half way leaves a machine in a state that nobody knows. */
void ask_forget(struct engine *engine, const void *ctx)
{
	for (struct question *question = engine->questions; question; question = question->next)
		if (question->ctx == ctx)
			question->fn = NULL;
}

void ask_stop(struct engine *engine)
{
	while (engine->questions) {
		struct question *question = engine->questions;
		engine->questions = question->next;
		fencer_cancel(engine->ports.fencer, question->id);
		free(question);
	}
}
