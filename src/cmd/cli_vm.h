/* SPDX-License-Identifier: Apache-2.0
 * Definitions on the command line: from options, from a file, from an editor.
 * Must never: judge a definition; that is the daemon's, which says the rule. */
#pragma once

#include "cmd/cli.h"

/* Puts the options of this verb into a definition (JSON as vm.show prints it). */
int definition_apply(struct cli *cli, json_t *definition);

/* A definition file, or stdin for "-". At most 1 MiB. A new reference in *definition. */
int definition_read(struct cli *cli, const char *path, json_t **definition);

/* Calls vm.edit for the VM of the first operand. Borrows both. */
int definition_edit(struct cli *cli, json_t *was, json_t *edited, const char *done);

/* Lets the user edit was in $VISUAL or $EDITOR; what cannot be used is kept and named. */
int edit_in_editor(struct cli *cli, const char *name, json_t *was, const char *done);

/* cli_policy.c: the options of a policy, applied to the definition's; and what 'vm show' says of it. */
int policy_apply(struct cli *cli, json_t *definition);
void policy_print(const json_t *definition);
