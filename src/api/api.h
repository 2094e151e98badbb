/* SPDX-License-Identifier: Apache-2.0
 * The API: the calls that the CLI and the console make, as JSON lines over a unix socket.
 *
 *   → {"id":1,"call":"vm.move","args":{"vm":"web","target":"n2"}}
 *   ← {"id":1,"result":{"task":42,"index":42}}
 *   ← {"id":1,"error":{"code":"busy","exit":75,"exit_name":"CRM_EX_TEMPFAIL","message":"…","hint":"…"}}
 *   ← {"id":7,"event":{"kind":"progress",…}}        to whoever made the call "subscribe" with id 7
 *
 * Replies may come in another order than the calls. One table (calls.c) names the calls, their arguments and their
 * help. Promises: every line from outside is hostile until parsed; a client is bounded in line size, outstanding calls,
 * output that it does not read, and time; the peer's credentials are asked for at each call; a change is answered only
 * after it is committed.
 * Must never: wait (a slow client, a hung disk), decide (the core does), or hand out one client's answers to another.
 */
#pragma once

#include "base/worker.h"
#include "engine/service.h"
#include "port/loop.h"

#include <sys/types.h>

enum {
	API_CLIENTS_MAX = 64,
	API_LINE_MAX = 1 << 20,	  /* bytes of one call */
	API_CALLS_MAX = 16,	  /* outstanding, per client */
	API_OUTPUT_MAX = 8 << 20, /* bytes that a client has not read yet */
	API_LINE_MS = 10000,	  /* a line that was begun must end within this */
	API_IDLE_MS = 600000,	  /* no call, no subscription, nothing outstanding */
	API_DRAIN_MS = 5000,	  /* a client that is dropped has this long to read why */
	API_DISK_CHECK_MS = 5000, /* storage that does not answer by then counts as hung */
};

#define API_SOCKET_DEFAULT "/run/watari/api.sock"
#define API_GROUP_NONE ((gid_t)-1)

struct api_config {
	const char *socket_path;
	gid_t group;	     /* its members may call, too; API_GROUP_NONE: root alone, and the socket is 0600 */
	const char *run_dir; /* of the hypervisor: a VM's serial socket is found below it */
	struct worker *worker; /* for looks at files, and kept longer than this; NULL: it has one of its own */
};

struct api;

/* Binds the socket and serves it on the loop. Copies config; engine and loop outlive it. */
struct api *api_new(const struct api_config *config, struct engine *engine, struct loop *loop, struct err *err);

/* Drops every client and removes the socket. Takes NULL. */
void api_free(struct api *api);
