/* SPDX-License-Identifier: Apache-2.0
 * port/fencer.h without agents: devices that switch the simulated nodes off and on, and everything that such a device
 * may do wrong.
 *
 * The outlets are the world's: what a device was told it does, also when the daemon that told it is gone or has given
 * the order up. An order asks for the status, sends "off", and asks until the device says off or the limit is over.
 *
 * Promises: as the port, but where a fault says otherwise (DEVICE_LIE, DEVICE_BLIND, DEVICE_TWICE). Must never: switch
 * a node inside a call. */
#pragma once

#include "base/prng.h"
#include "driver/fake/loop_fake.h"
#include "driver/fake/timeline.h"
#include "model/cluster.h"
#include "port/fencer.h"

#define DEVICE_FAULTS(X)                                                                                               \
	X(DEVICE_OK, "ok")                                                                                             \
	X(DEVICE_HANG, "hang")	 /* never answers: the order fails at its limit */                                     \
	X(DEVICE_FAIL, "fail")	 /* cannot be reached, or has no power itself */                                       \
	X(DEVICE_IDLE, "idle")	 /* takes the order with success and does nothing; its status is true */               \
	X(DEVICE_LATE, "late")	 /* switches `ms` after it was told, also when nobody waits for it any more */         \
	X(DEVICE_TWICE, "twice") /* answers once more, with the contrary, also when the order was cancelled */         \
	X(DEVICE_LIE, "lie")	 /* told to switch off, it says off and does nothing */                                \
	X(DEVICE_BLIND, "blind") /* says off whatever is so */

enum device_fault { DEVICE_FAULTS(NAMES_CONSTANT) };
enum { DEVICE_FAULT_COUNT = DEVICE_FAULTS(CLUSTER_COUNT) };
const char *device_fault_name(int fault);

struct outlets;
struct fencer_fake;

struct outlets_config {
	bool exact; /* no dice about times: each question takes step_ms */
	uint32_t step_ms;
	void *ctx;
	bool (*has_power)(void *ctx, uint32_t node);
	/* From an item of the timeline. `by` gave the order, for device_node. */
	void (*switches)(void *ctx, uint32_t node, bool on, uint32_t by, uint32_t device_node);
	/* For checkers: an order is begun; "off" is sent; an answer goes to the daemon (told: what it says). */
	void (*began)(void *ctx, uint32_t by, const struct fence_order *order);
	void (*sent)(void *ctx, uint32_t by, const struct fence_order *order);
	void (*answers)(void *ctx, uint32_t by, const struct fence_order *order, enum fence_result told, bool was_on);
};

struct outlets *outlets_new(struct timeline *timeline, struct prng *prng, const struct outlets_config *config);
void outlets_free(struct outlets *outlets); /* after all of its fencer_fakes; takes NULL */
/* By the device's name; a device that was never named here works, and is wired to the node that it is defined for. */
void outlets_fault(struct outlets *outlets, const char *device, enum device_fault fault, uint32_t ms);
void outlets_wire(struct outlets *outlets, const char *device, uint32_t node);
/* This node cannot reach the device. */
void outlets_cut(struct outlets *outlets, const char *device, uint32_t node, bool cut);
void outlets_mend(struct outlets *outlets); /* all devices work, and are wired as defined */

struct fencer_fake *fencer_fake_new(
	struct outlets *outlets, uint32_t node, struct loop_fake *loop, const struct fencer_callbacks *callbacks);
void fencer_fake_free(struct fencer_fake *fake); /* the daemon's end, before its loop's; takes NULL */
struct fencer *fencer_fake_port(struct fencer_fake *fake);
