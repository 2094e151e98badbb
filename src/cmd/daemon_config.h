/* SPDX-License-Identifier: Apache-2.0
 * watarid.conf(5): read at start and at a reload, refused whole where anything in it is wrong (a daemon that guesses is worse than
 * one that says which line to mend).
 * Promises: what was read is whole, within its limits, and names no key that is not known. Must never: hold a secret. */
#pragma once

#include "base/err.h"
#include "base/log.h"
#include "model/limits.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define DAEMON_CONFIG_DEFAULT "/etc/watari/watarid.conf"

enum { CONFIG_BYTES_MAX = 64 << 10, CONFIG_LINE_MAX = 190 /* libinih cuts at 200 */ };

struct daemon_config {
	char cluster_uuid[UUID_BYTES];
	char node_name[NAME_BYTES];
	char store_dir[PATH_BYTES];
	char run_dir[PATH_BYTES];
	char state_dir[PATH_BYTES];
	char log_dir[PATH_BYTES];
	char qemu_binary[PATH_BYTES];
	char stream_helper[PATH_BYTES]; /* empty: watari-stream beside this program, else where it is installed */
	uint32_t uid_base;
	uint32_t uid_count;
	uint32_t reserve_memory_mib; /* 0: as the hypervisor's driver chooses */
	uint32_t memory_mib;
	uint32_t vcpus;
	bool no_kvm;
	char api_socket[PATH_BYTES]; /* empty: <run>/api.sock */
	gid_t api_group;
	enum log_level log_level;
	char watchdog_device[PATH_BYTES]; /* empty: none */
	uint32_t watchdog_ms;
	bool quorum_loss_stop;
	uint32_t watchdog_line; /* of what said its time, else of its device; 0: nothing did */
	char fence_agents[PATH_BYTES];	/* directory of the fence agents */
	char fence_secrets[PATH_BYTES]; /* the only directory from which their secrets are read */
};

/* Reads a file that only root may change. ERR_INVALID names file, line and rule. */
int daemon_config_read(const char *path, struct daemon_config *config, struct err *err);

/* The same from a text; name stands for the file in errors. */
int daemon_config_parse(const char *name, const char *text, size_t size, struct daemon_config *config, struct err *err);

/* The watchdog must be long enough for corosync's real token, or a node in good health would end itself. token_ms 0: not
 * known, nothing is refused. */
int daemon_config_check_token(const char *name, const struct daemon_config *config, uint32_t token_ms, struct err *err);

/* The first key that differs and that a reload cannot change, as "[section] key"; NULL: there is none. */
const char *daemon_config_needs_restart(const struct daemon_config *a, const struct daemon_config *b, char text[96]);
