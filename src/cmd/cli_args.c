/* SPDX-License-Identifier: Apache-2.0
 * Words to a verb, its options and operands. Options may stand anywhere behind the verb; "--" ends them. */
#include "cmd/cli.h"

#include <string.h>

bool cli_is_noun(const char *word)
{
	for (size_t i = 0; i < cli_noun_count; i++)
		if (!strcmp(cli_nouns[i].name, word))
			return true;
	return false;
}

const struct verb *cli_find_verb(const char *noun, const char *name)
{
	for (size_t i = 0; i < cli_verb_count; i++) {
		const struct verb *verb = &cli_verbs[i];
		if (!strcmp(verb->name, name) && (noun ? verb->noun && !strcmp(verb->noun, noun) : !verb->noun))
			return verb;
	}
	return NULL;
}

void cli_each_opt(const struct verb *verb, void (*fn)(void *ctx, const struct opt *opt), void *ctx)
{
	for (size_t i = 0; i < VERB_OPTS_MAX && verb->opts[i].name; i++)
		fn(ctx, &verb->opts[i]);
	for (const struct opt *opt = cli_task_opts; verb->has_task && opt->name; opt++)
		fn(ctx, opt);
	for (const struct opt *opt = cli_change_opts; verb->changes && opt->name; opt++)
		fn(ctx, opt);
	for (const struct opt *opt = cli_global_opts; opt->name; opt++)
		fn(ctx, opt);
}

struct opt_search {
	const char *name; /* or NULL: by letter */
	size_t length;
	char letter;
	const struct opt *found;
};

static void match_opt(void *ctx, const struct opt *opt)
{
	struct opt_search *search = ctx;

	if (search->name ? strlen(opt->name) == search->length && !memcmp(opt->name, search->name, search->length)
			 : opt->letter == search->letter)
		search->found = opt;
}

const struct opt *cli_find_opt(const struct verb *verb, const char *name, size_t length)
{
	struct opt_search search = {.name = name, .length = length};

	cli_each_opt(verb, match_opt, &search);
	return search.found;
}

static const struct opt *find_letter(const struct verb *verb, char letter)
{
	struct opt_search search = {.letter = letter};

	cli_each_opt(verb, match_opt, &search);
	return search.found;
}

/* Edit distance, for "did you mean"; words longer than 31 have no neighbour. */
static unsigned distance(const char *a, const char *b)
{
	enum { MAX = 32 };
	unsigned row[MAX];
	size_t la = strnlen(a, MAX), lb = strnlen(b, MAX);

	if (la >= MAX || lb >= MAX)
		return MAX;
	for (size_t j = 0; j <= lb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned diagonal = row[0];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned above = row[j];
			unsigned best = diagonal + (a[i - 1] != b[j - 1]);
			if (above + 1 < best)
				best = above + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
			diagonal = above;
		}
	}
	return row[lb];
}

struct nearest {
	const char *word;
	const char *best;
	unsigned best_distance;
};

static void consider(struct nearest *nearest, const char *candidate)
{
	unsigned d = distance(nearest->word, candidate);

	if (d < nearest->best_distance) {
		nearest->best = candidate;
		nearest->best_distance = d;
	}
}

static void consider_opt(void *ctx, const struct opt *opt)
{
	consider(ctx, opt->name);
}

PRINTF_LIKE(2, 3) static int usage(struct cli *cli, const char *hint_format, ...)
{
	va_list args;

	va_start(args, hint_format);
	vsnprintf(cli->hint, sizeof(cli->hint), hint_format, args);
	va_end(args);
	return -1;
}

static const char *verb_path(const struct verb *verb, char out[64])
{
	snprintf(out, 64, "watari %s%s%s", verb->noun ? verb->noun : "", verb->noun ? " " : "", verb->name);
	return out;
}

static int unknown_verb(struct cli *cli, const char *noun, const char *word)
{
	struct nearest nearest = {.word = word, .best_distance = 3};

	for (size_t i = 0; i < cli_verb_count; i++)
		if (noun ? cli_verbs[i].noun && !strcmp(cli_verbs[i].noun, noun) : !cli_verbs[i].noun)
			consider(&nearest, cli_verbs[i].name);
	for (size_t i = 0; !noun && i < cli_noun_count; i++)
		consider(&nearest, cli_nouns[i].name);
	if (noun)
		err_set(&cli->err, ERR_USAGE, "no verb '%.64s' for '%s'", word, noun);
	else
		err_set(&cli->err, ERR_USAGE, "no verb and no noun '%.64s'", word);
	if (nearest.best && noun)
		return usage(cli, "did you mean 'watari %s %s'?", noun, nearest.best);
	if (nearest.best)
		return usage(cli, "did you mean 'watari %s'?", nearest.best);
	return usage(cli, "'watari %s%s--help' shows all", noun ? noun : "", noun ? " " : "");
}

static int unknown_opt(struct cli *cli, const char *word)
{
	struct nearest nearest = {.word = word + strspn(word, "-"), .best_distance = 3};
	char path[64];

	cli_each_opt(cli->verb, consider_opt, &nearest);
	err_set(&cli->err, ERR_USAGE, "%s takes no option '%.64s'", verb_path(cli->verb, path), word);
	if (nearest.best)
		return usage(cli, "did you mean '--%s'?", nearest.best);
	return usage(cli, "'%s --help' shows its options", path);
}

static bool is_choice(const char *choices, const char *value)
{
	size_t length = strlen(value);

	for (const char *at = choices; at && *at; at += strcspn(at, " "), at += *at == ' ')
		if (strcspn(at, " ") == length && !memcmp(at, value, length))
			return true;
	return false;
}

static int take_opt(struct cli *cli, const struct opt *opt, const char *value)
{
	char path[64];

	verb_path(cli->verb, path);
	if (opt->value && !value) {
		err_set(&cli->err, ERR_USAGE, "--%s needs a value: %s", opt->name, opt->value);
		return usage(cli, "'%s --help' has examples", path);
	}
	if (!opt->value && value) {
		err_set(&cli->err, ERR_USAGE, "--%s takes no value", opt->name);
		return usage(cli, "'%s --help' shows its options", path);
	}
	if (opt->choices && !is_choice(opt->choices, value))
		return err_set(&cli->err, ERR_USAGE, "--%s '%.64s': one of %s", opt->name, value, opt->choices);
	if (!opt->many && cli_option(cli, opt->name))
		return err_set(&cli->err, ERR_USAGE, "--%s is given twice", opt->name);
	if (cli->given_count == GIVEN_MAX)
		return err_set(&cli->err, ERR_USAGE, "more than %d options", GIVEN_MAX);
	cli->given[cli->given_count++] = (struct given){opt, value ? value : ""};
	return 0;
}

static int take_operand(struct cli *cli, const char *word)
{
	char path[64];

	for (size_t i = 0; i < VERB_OPERANDS_MAX && cli->verb->operands[i].name; i++) {
		if (cli->operands[i])
			continue;
		cli->operands[i] = word;
		return 0;
	}
	err_set(&cli->err, ERR_USAGE, "%s: one word too many: '%.64s'", verb_path(cli->verb, path), word);
	return usage(cli, "'%s --help' shows how it is used", path);
}

/* "--name", "--name=value", "-x", "-x value", "-xvalue". Returns how many words it took, or -1. */
static int parse_opt(struct cli *cli, const char *word, const char *following)
{
	const struct opt *opt;
	const char *value = NULL;

	if (word[1] == '-') {
		size_t length = strcspn(word + 2, "=");
		opt = cli_find_opt(cli->verb, word + 2, length);
		value = word[2 + length] ? word + 2 + length + 1 : NULL;
	} else {
		opt = find_letter(cli->verb, word[1]);
		value = word[2] ? word + 2 : NULL;
	}
	if (!opt)
		return unknown_opt(cli, word);
	bool took_next = opt->value && !value && following;
	if (took_next)
		value = following;
	return take_opt(cli, opt, value) < 0 ? -1 : 1 + took_next;
}

static int check_words(struct cli *cli, int count, char *const *words)
{
	for (int i = 0; i < count; i++)
		if (!schema_text_ok(words[i], strlen(words[i])))
			return err_set(&cli->err, ERR_INVALID,
				"word %d of the command line: control characters and invalid UTF-8 are not allowed",
				i + 1);
	return 0;
}

/* The noun and the verb come first; only --help may stand before them. */
static int find_the_verb(struct cli *cli, int count, char *const *words, int *used)
{
	const char *noun = NULL;

	for (*used = 0; *used < count; (*used)++) {
		const char *word = words[*used];
		if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
			cli->help = true;
			continue;
		}
		if (word[0] == '-') {
			err_set(&cli->err, ERR_USAGE, "'%.64s' stands before the verb", word);
			return usage(cli, "watari NOUN VERB first, then options; 'watari --help' shows all");
		}
		if (!noun && cli_is_noun(word)) {
			noun = word;
			continue;
		}
		cli->verb = cli_find_verb(noun, word);
		if (!cli->verb)
			return unknown_verb(cli, noun, word);
		(*used)++;
		return 0;
	}
	if (noun && !cli->help) {
		err_set(&cli->err, ERR_USAGE, "'watari %s' needs a verb", noun);
		return usage(cli, "'watari %s --help' shows them all", noun);
	}
	cli->operands[0] = noun; /* help about a noun */
	return 0;
}

static int check_operands(struct cli *cli)
{
	char path[64];

	for (size_t i = 0; i < VERB_OPERANDS_MAX && cli->verb->operands[i].name; i++) {
		const struct operand *operand = &cli->verb->operands[i];
		if (cli->operands[i] || operand->optional)
			continue;
		err_set(&cli->err, ERR_USAGE, "%s needs %s", verb_path(cli->verb, path), operand->name);
		return usage(cli, "'%s --help' shows how it is used", path);
	}
	return 0;
}

int cli_parse(struct cli *cli, int count, char *const *words)
{
	bool only_operands = false;
	int at;

	if (check_words(cli, count, words) < 0 || find_the_verb(cli, count, words, &at) < 0)
		return -1;
	while (cli->verb && at < count) {
		const char *word = words[at];
		if (!only_operands && !strcmp(word, "--")) {
			only_operands = true;
			at++;
		} else if (!only_operands && word[0] == '-' && word[1]) {
			int used = parse_opt(cli, word, at + 1 < count ? words[at + 1] : NULL);
			if (used < 0)
				return -1;
			at += used;
		} else {
			if (take_operand(cli, word) < 0)
				return -1;
			at++;
		}
	}
	cli->help = cli->help || cli_option(cli, "help");
	return cli->verb && !cli->help ? check_operands(cli) : 0;
}

const char *cli_option(const struct cli *cli, const char *name)
{
	for (size_t i = cli->given_count; i > 0; i--)
		if (!strcmp(cli->given[i - 1].opt->name, name))
			return cli->given[i - 1].value;
	return NULL;
}
