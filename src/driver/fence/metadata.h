/* SPDX-License-Identifier: Apache-2.0
 * What a fence agent says of itself (FenceAgentAPI.md, "metadata"), and whether a device's options fit that.
 *
 * The text comes from a program that anybody may have written. Promises: no network, no files, no entities and no
 * document type; bounded in size and in what is taken from it; what does not parse is refused with the reason. Must
 * never: be believed in what concerns safety: the proof is the status, not the metadata. */
#pragma once

#include "base/err.h"
#include "model/fence.h"

#include <stdbool.h>

enum { METADATA_BYTES_MAX = 1 << 20, METADATA_PARAMETERS_MAX = 128, METADATA_CHOICES_MAX = 16 };

enum fence_parameter_type { PARAMETER_TEXT, PARAMETER_BOOL, PARAMETER_NUMBER, PARAMETER_CHOICE };

struct fence_parameter {
	char name[32];
	char obsoletes[32]; /* the older name of the same */
	enum fence_parameter_type type;
	bool required;
	bool deprecated;
	char standard[48]; /* its default, and what it is about: printable ASCII, for a person */
	char about[112];
	uint32_t choice_count; /* 0 where there were more than METADATA_CHOICES_MAX: any value is taken */
	char choices[METADATA_CHOICES_MAX][32];
};

struct fence_metadata {
	char about[128]; /* printable ASCII, for a person */
	bool off;
	bool on;
	bool status;
	uint32_t parameter_count;
	struct fence_parameter parameters[METADATA_PARAMETERS_MAX];
};

int fence_metadata_parse(const char *bytes, size_t size, struct fence_metadata *metadata, struct err *err);

/* What a person may set, in the agent's own words. */
void fence_metadata_tell(const struct fence_metadata *metadata, struct fence_agent_about *about);

/* 0, or -1 with ERR_INVALID (an option) or ERR_UNFIT (the agent) and what does not fit. */
int fence_metadata_check(const struct fence_metadata *metadata, const struct fence_device *device, struct err *err);
