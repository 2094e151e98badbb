/* SPDX-License-Identifier: Apache-2.0
 * Turning another node off, and knowing that it is off. Fence agents in the daemon, a model of power in the simulator.
 *
 * Every call begins something and returns; how it went comes as one callback per order, never inside the call. What is
 * under way already under the same id is not begun again (the engine is level-triggered).
 * Promises: FENCE_RESULT_OFF only when the device itself, asked after the order began, said that the node is off. An
 * agent's success, silence or death is no proof. An order is answered at the latest shortly after its delay and its
 * device's limit are over, also when the agent hangs. Neither what an agent prints nor how much of it does harm.
 * Must never: decide whom to fence; show a secret in a text, a log or an argument list. */
#pragma once

#include "base/err.h"
#include "model/fence.h"
#include "model/names.h"

enum {
	FENCE_ORDERS_MAX = 8,	 /* that an instance runs at one time; more fail at once */
	FENCE_QUESTIONS_MAX = 4, /* the same for check and FENCE_STATUS, so that no question is in the way of fencing */
};

#define FENCE_ACTIONS(X)                                                                                               \
	X(FENCE_OFF, "off")	  /* status (off already is proof at once), off, status until it says off */           \
	X(FENCE_ON, "on")	  /* the same with on */                                                               \
	X(FENCE_STATUS, "status") /* asks and changes nothing */
#define FENCE_RESULTS(X)                                                                                               \
	X(FENCE_RESULT_OFF, "off")                                                                                     \
	X(FENCE_RESULT_ON, "on")                                                                                       \
	X(FENCE_RESULT_FAILED, "failed") /* nothing is known of the node */

enum fence_action { FENCE_ACTIONS(NAMES_CONSTANT) };
enum fence_result { FENCE_RESULTS(NAMES_CONSTANT) };

static inline const char *fence_action_name(int value)
{
	switch (value) {
		FENCE_ACTIONS(NAMES_CASE)
	}
	return "?";
}

static inline const char *fence_result_name(int value)
{
	switch (value) {
		FENCE_RESULTS(NAMES_CASE)
	}
	return "?";
}

struct fence_order {
	uint64_t id; /* the caller's; comes back with the answer */
	enum fence_action action;
	uint32_t delay_ms; /* before the agent is called first; device.limit_ms begins after it. The caller's policy:
			      the device's own delay_ms is not added */
	struct fence_device device;
	char node_name[NAME_BYTES]; /* of device.node: agents get it as nodename= */
};

struct fencer_callbacks {
	void *ctx;
	/* Of run. was_on: a status that was read said on, so with FENCE_RESULT_OFF it was this order that made the
	 * difference. text: one line of valid UTF-8, at most REASON_BYTES with NUL, the fact: "status read back: off",
	 * "timed out after 20 s: off does not end; ...", "status: exit status 1: ERROR: Unable to connect". It is gone
	 * after the return. */
	void (*done)(void *ctx, uint64_t id, enum fence_result result, bool was_on, const char *text);
	/* Of check. err is NULL when the device's options fit the agent; text then says what the agent is. about: what the
	 * agent says of its options, also where the device's do not fit; NULL where it says nothing of use. Gone after the
	 * return. */
	void (*checked)(
		void *ctx, uint64_t id, const struct err *err, const char *text, const struct fence_agent_about *about);
};

struct fencer;
struct fencer_ops {
	void (*run)(struct fencer *fencer, const struct fence_order *order);
	/* Ends the order's agent, with all that it started; the order gets no answer any more. What the agent has done
	 * to the node is unknown. No such order: nothing. Also for checks. */
	void (*cancel)(struct fencer *fencer, uint64_t id);
	/* Reads the agent's metadata and holds the device's options against it: unknown ones, missing required ones,
	 * values that are not among the allowed ones, secrets that cannot be read on this node. Touches no node. */
	void (*check)(struct fencer *fencer, uint64_t id, const struct fence_device *device);
};

struct fencer {
	const struct fencer_ops *ops;
};

static inline void fencer_run(struct fencer *fencer, const struct fence_order *order)
{
	fencer->ops->run(fencer, order);
}
static inline void fencer_cancel(struct fencer *fencer, uint64_t id)
{
	fencer->ops->cancel(fencer, id);
}
static inline void fencer_check(struct fencer *fencer, uint64_t id, const struct fence_device *device)
{
	fencer->ops->check(fencer, id, device);
}
