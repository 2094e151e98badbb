/* SPDX-License-Identifier: Apache-2.0
 * Help, man pages and completion, all from the table of verbs. */
#include "cmd/cli.h"

#include <dirent.h>
#include <string.h>

enum { HELP_COLUMN = 28, HELP_WIDTH = 100 };

static void usage_line(const struct verb *verb, char out[160])
{
	int used = snprintf(out, 160, "watari %s%s%s", verb->noun ? verb->noun : "", verb->noun ? " " : "", verb->name);

	for (size_t i = 0; i < VERB_OPERANDS_MAX && verb->operands[i].name; i++)
		used += snprintf(out + used, 160 - (size_t)used, verb->operands[i].optional ? " [%s]" : " %s",
			verb->operands[i].name);
	snprintf(out + used, 160 - (size_t)used, " [OPTIONS]");
}

/* Words up to the width, later lines indented. column: where the text begins on the first line. */
static void wrap(FILE *out, const char *text, size_t column, size_t indent)
{
	bool first = true;

	while (*text) {
		size_t length = strcspn(text, " ");
		if (!first && column + 1 + length > HELP_WIDTH) {
			fprintf(out, "\n%*s", (int)indent, "");
			column = indent;
		} else if (!first) {
			fputc(' ', out);
			column++;
		}
		fwrite(text, 1, length, out);
		column += length;
		text += length + strspn(text + length, " ");
		first = false;
	}
	fputc('\n', out);
}

static void entry(FILE *out, const char *left, const char *right)
{
	size_t length = strlen(left);

	fprintf(out, "  %s", left);
	if (length + 4 > HELP_COLUMN) {
		fprintf(out, "\n%*s", HELP_COLUMN, "");
	} else {
		fprintf(out, "%*s", (int)(HELP_COLUMN - 2 - length), "");
	}
	wrap(out, right, HELP_COLUMN, HELP_COLUMN);
}

static void opt_name(const struct opt *opt, char out[80])
{
	int used = opt->letter ? snprintf(out, 80, "-%c, --%s", opt->letter, opt->name)
			       : snprintf(out, 80, "    --%s", opt->name);

	if (opt->value)
		snprintf(out + used, 80 - (size_t)used, " %s", opt->value);
}

static void opt_help(const struct opt *opt, char *out, size_t size)
{
	char choices[128] = "";
	bool list = opt->choices;

	/* Where the help itself names the first of them it has named them all. */
	if (list) {
		snprintf(choices, sizeof(choices), "%.*s", (int)strcspn(opt->choices, " "), opt->choices);
		list = !strstr(opt->help, choices);
		choices[0] = '\0';
	}
	for (const char *at = opt->choices; list && *at; at += strcspn(at, " "), at += *at == ' ') {
		size_t used = strlen(choices);
		snprintf(choices + used, sizeof(choices) - used, "%s%.*s", used ? ", " : "", (int)strcspn(at, " "), at);
	}
	snprintf(out, size, "%s%s%s", opt->help, list ? ": " : "", choices);
}

static int capital(char c)
{
	return c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c;
}

static void print_opt(void *ctx, const struct opt *opt)
{
	char left[80], right[400];

	opt_name(opt, left);
	opt_help(opt, right, sizeof(right));
	entry(ctx, left, right);
}

static void print_verbs(FILE *out, const char *noun)
{
	char left[160];

	for (size_t i = 0; i < cli_verb_count; i++) {
		const struct verb *verb = &cli_verbs[i];
		if (noun ? !verb->noun || strcmp(verb->noun, noun) != 0 : verb->noun != NULL)
			continue;
		usage_line(verb, left);
		*strstr(left, " [OPTIONS]") = '\0';
		entry(out, left, verb->summary);
	}
}

void help_program(FILE *out)
{
	fprintf(out,
		"watari keeps virtual machines running on a cluster of Linux servers, and moves them between servers\n"
		"while they run.\n\n"
		"Usage: watari NOUN VERB [OPERANDS] [OPTIONS]\n"
		"       watari NOUN --help, watari NOUN VERB --help\n\n"
		"The cluster:\n");
	print_verbs(out, NULL);
	for (size_t i = 0; i < cli_noun_count; i++) {
		fprintf(out, "\n%c%s:\n", capital(cli_nouns[i].summary[0]), cli_nouns[i].summary + 1);
		print_verbs(out, cli_nouns[i].name);
	}
	fprintf(out, "\nFirst steps:\n"
		     "  watari status\n"
		     "  watari vm create web --memory 2G --disk /srv/vm/web.qcow2 --network br0\n"
		     "  watari vm start web\n"
		     "  watari vm move web --to n2\n\n"
		     "Every verb has --help with examples. -o json prints JSON for scripts; --dry-run shows what a "
		     "change would\n"
		     "do. Exit status: 0 done, 64 wrong usage, 65 bad value, 69 no daemon, 75 busy, 77 no right, 105 "
		     "not found,\n"
		     "106 no quorum, 107 needs a confirmation, 108 exists, 113 does not fit, 124 time is up; all in "
		     "watari(8).\n");
}

void help_noun(FILE *out, const char *noun)
{
	for (size_t i = 0; i < cli_noun_count; i++) {
		if (strcmp(cli_nouns[i].name, noun) != 0)
			continue;
		fprintf(out, "watari %s: %s\n\n", noun, cli_nouns[i].summary);
		wrap(out, cli_nouns[i].text, 0, 0);
		fputc('\n', out);
	}
	print_verbs(out, noun);
	fprintf(out, "\n'watari %s VERB --help' says more, with examples.\n", noun);
}

void help_verb(FILE *out, const struct verb *verb)
{
	char usage[160];

	usage_line(verb, usage);
	fprintf(out, "Usage: %s\n\n%c%s.\n", usage, capital(verb->summary[0]), verb->summary + 1);
	if (verb->text) {
		fputc('\n', out);
		wrap(out, verb->text, 0, 0);
	}
	fprintf(out, "\nOptions:\n");
	cli_each_opt(verb, print_opt, out);
	fprintf(out, "\nExamples:\n");
	for (size_t i = 0; i < VERB_EXAMPLES_MAX && verb->examples[i]; i++)
		fprintf(out, "  %s\n", verb->examples[i]);
}

/* scdoc: what would be its markup is escaped. */
static void man_text(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (strchr("_*\\#<>|~", *text))
			fputc('\\', out);
		fputc(*text, out);
	}
}

static void man_opt(void *ctx, const struct opt *opt)
{
	char right[400];

	for (const struct opt *global = cli_global_opts; global->name; global++)
		if (global == opt)
			return; /* in watari(8), once */
	fputc('\n', ctx);
	if (opt->letter)
		fprintf(ctx, "*-%c*, ", opt->letter);
	fprintf(ctx, "*--%s*", opt->name);
	if (opt->value)
		fprintf(ctx, " _%s_", opt->value);
	fprintf(ctx, "\n\t");
	opt_help(opt, right, sizeof(right));
	man_text(ctx, right);
	fprintf(ctx, ".\n");
}

static void man_verb(FILE *out, const struct verb *verb)
{
	char usage[160];

	usage_line(verb, usage);
	fprintf(out, "\n## %s\n\n", usage); /* scdoc takes a heading as it is */
	fputc(capital(verb->summary[0]), out);
	man_text(out, verb->summary + 1);
	fprintf(out, ".\n");
	if (verb->text) {
		fputc('\n', out);
		man_text(out, verb->text);
		fputc('\n', out);
	}
	cli_each_opt(verb, man_opt, out);
	fprintf(out, "\nExamples:\n\n```\n");
	for (size_t i = 0; i < VERB_EXAMPLES_MAX && verb->examples[i]; i++)
		fprintf(out, "%s\n", verb->examples[i]);
	fprintf(out, "```\n");
}

void help_man(FILE *out, const struct noun *noun)
{
	if (noun) {
		fprintf(out, "watari-%s(8)\n\n# NAME\n\nwatari-%s - ", noun->name, noun->name);
		man_text(out, noun->summary);
		fprintf(out, "\n\n# SYNOPSIS\n\n*watari %s* _VERB_ [OPERANDS] [OPTIONS]\n\n# DESCRIPTION\n\n",
			noun->name);
		man_text(out, noun->text);
		fprintf(out, "\n\nThe options *-o*, *-s*, *-q* and *-h* and the exit status are described in "
			     "*watari*(8).\n");
	}
	fprintf(out, "\n# VERBS\n");
	for (size_t i = 0; i < cli_verb_count; i++) {
		const char *its = cli_verbs[i].noun;
		if (noun ? its && !strcmp(its, noun->name) : !its)
			man_verb(out, &cli_verbs[i]);
	}
	if (noun)
		fprintf(out, "\n# SEE ALSO\n\n*watari*(8), *watarid*(8)\n");
}

struct completion {
	const char *partial;
};

static void offer(const struct completion *completion, const char *word)
{
	if (!strncmp(word, completion->partial, strlen(completion->partial)))
		puts(word);
}

static void offer_opt(void *ctx, const struct opt *opt)
{
	char word[80];

	snprintf(word, sizeof(word), "--%s", opt->name);
	offer(ctx, word);
}

static void offer_choices(const struct completion *completion, const char *choices)
{
	char word[64];

	for (const char *at = choices; *at; at += strcspn(at, " "), at += *at == ' ') {
		snprintf(word, sizeof(word), "%.*s", (int)strcspn(at, " "), at);
		offer(completion, word);
	}
}

/* Live names; without a daemon there is nothing to offer, and no error in the middle of the user's line. */
static void offer_names(const struct completion *completion, enum complete what, const char *before)
{
	static const struct {
		const char *call, *list, *key;
	} sources[] = {
		[COMPLETE_VM] = {"vm.list", "vms", "name"},
		[COMPLETE_NODE] = {"node.list", "nodes", "name"},
		[COMPLETE_TASK] = {"task.list", "tasks", "id"},
		[COMPLETE_DEVICE] = {"fence.list", "devices", "name"},
	};
	struct cli cli = {.client.fd = -1};
	CLEANUP_JSON json_t *result = NULL;
	const json_t *item;
	size_t i;

	if (!cli_call(&cli, sources[what].call, NULL, &result)) {
		json_array_foreach(json_object_get(result, sources[what].list), i, item)
		{
			const json_t *value = json_object_get(item, sources[what].key);
			char word[640];
			if (json_is_string(value))
				snprintf(word, sizeof(word), "%s%.100s", before, json_string_value(value));
			else
				snprintf(word, sizeof(word), "%llu", (unsigned long long)json_integer_value(value));
			offer(completion, word);
		}
	}
	api_client_close(&cli.client);
}

/* Where they are by default; watarid may look elsewhere. */
static void offer_agents(const struct completion *completion)
{
	DIR *dir = opendir("/usr/sbin");
	const struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (!strncmp(entry->d_name, "fence_", 6))
			offer(completion, entry->d_name);
	if (dir)
		closedir(dir);
}

/* "n1,n": what stands before the last comma stays. */
static void offer_list(const struct completion *completion)
{
	const char *comma = strrchr(completion->partial, ',');
	char before[512];

	snprintf(before, sizeof(before), "%.*s", comma ? (int)(comma - completion->partial + 1) : 0, completion->partial);
	offer_names(completion, COMPLETE_NODE, before);
}

static void offer_live(const struct completion *completion, enum complete what)
{
	switch (what) {
	case COMPLETE_NONE:
		return;
	case COMPLETE_FILE:
		puts(":file"); /* the shell function completes these by itself */
		return;
	case COMPLETE_AGENT:
		offer_agents(completion);
		return;
	case COMPLETE_WHY:
		offer_names(completion, COMPLETE_VM, "vm/");
		offer_names(completion, COMPLETE_NODE, "node/");
		return;
	case COMPLETE_NODES:
		offer_list(completion);
		return;
	case COMPLETE_VM:
	case COMPLETE_NODE:
	case COMPLETE_TASK:
	case COMPLETE_DEVICE:
		offer_names(completion, what, "");
		return;
	}
}

static void offer_verbs(const struct completion *completion, const char *noun)
{
	for (size_t i = 0; i < cli_verb_count; i++) {
		const char *its = cli_verbs[i].noun;
		if (noun ? its && !strcmp(its, noun) : !its)
			offer(completion, cli_verbs[i].name);
	}
	for (size_t i = 0; !noun && i < cli_noun_count; i++)
		offer(completion, cli_nouns[i].name);
	offer(completion, "--help");
}

/* words: all after the program's name; the last is the one being typed, maybe empty. */
int cli_complete(int count, char *const *words)
{
	struct completion completion = {.partial = count && strcmp(words[count - 1], "=") != 0 ? words[count - 1] : ""};
	const char *noun = count > 1 && cli_is_noun(words[0]) ? words[0] : NULL;
	int at = noun ? 1 : 0, operands = 0;

	if (count <= at + 1) {
		offer_verbs(&completion, noun);
		return 0;
	}
	const struct verb *verb = cli_find_verb(noun, words[at]);
	if (!verb)
		return 0;
	for (at++; at < count - 1; at++) {
		const struct opt *opt = words[at][0] == '-' && words[at][1] == '-'
						? cli_find_opt(verb, words[at] + 2, strlen(words[at] + 2))
						: NULL;
		/* bash makes three words of "--to=n2". */
		if (opt && opt->value && at + 2 <= count - 1 && !strcmp(words[at + 1], "="))
			at++;
		if (opt && opt->value && at + 1 == count - 1) {
			if (opt->choices)
				offer_choices(&completion, opt->choices);
			else
				offer_live(&completion, opt->complete);
			return 0;
		}
		if (opt && opt->value)
			at++;
		else if (words[at][0] != '-')
			operands++;
	}
	if (completion.partial[0] == '-')
		cli_each_opt(verb, offer_opt, &completion);
	else if (operands < VERB_OPERANDS_MAX && verb->operands[operands].name)
		offer_live(&completion, verb->operands[operands].complete);
	else
		cli_each_opt(verb, offer_opt, &completion);
	return 0;
}
