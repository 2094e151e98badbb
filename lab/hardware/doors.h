/* SPDX-License-Identifier: Apache-2.0
 * The sockets of the lab's hardware, and who is connected to them. A request outlives its connection: an outlet that
 * was told to switch switches, whether or not somebody still waits for the answer. */
#pragma once

#include "hardware.h"

#include <poll.h>

enum { CLIENTS_MAX = 64, DOORS_MAX = 1 + 2 * NODES_MAX, ON_LIMIT_MS = 60000, OFF_LIMIT_MS = 60000, ON_LOOK_MS = 20 };

enum door_kind { DOOR_CONTROL, DOOR_BMC, DOOR_WATCHDOG };

struct door {
	int fd;
	enum door_kind kind;
	struct node *node; /* whose; NULL: control */
};

enum wait { WAIT_NONE, WAIT_DUE, WAIT_OFF, WAIT_ON };

struct client {
	bool is_used;
	int fd; /* -1: hung up while its request is under way */
	struct door *door;
	char line[LINE_BYTES];
	size_t line_bytes;
	enum wait wait;
	struct node *target;
	char action[8];
	uint64_t until_ms; /* WAIT_DUE: when to act; else when to give up */
};

struct doors {
	struct door doors[DOORS_MAX];
	int doors_count;
	struct client clients[CLIENTS_MAX];
};

/* Makes the sockets below the current directory. */
int doors_open(struct hardware *hw, struct doors *doors, bool with_watchdogs);
void doors_accept(struct doors *doors, struct door *door);
void doors_read(struct hardware *hw, struct client *client);
/* Requests that wait for a time or for a node to change. */
void doors_go_on(struct hardware *hw, struct doors *doors);
/* Milliseconds until doors_go_on has something to do, UINT64_MAX for nothing. */
uint64_t doors_due_in_ms(const struct doors *doors, uint64_t now_ms);

/* --- request.c --- */

/* One line that came in at a door, without its newline. */
void request_take(struct hardware *hw, struct client *client, const char *line);
/* A request that waits. */
void request_go_on(struct hardware *hw, struct client *client, uint64_t now_ms);
/* Sends one line; the request is done. */
void client_answer(struct client *client, const char *format, ...) __attribute__((format(printf, 2, 3)));
