/* SPDX-License-Identifier: Apache-2.0
 * The lab's fence agent: the standard protocol of fence-agents (FenceAgentAPI.md: options as name=value lines on the
 * standard input, the outcome as exit status), spoken to the controllers that lab/hardware plays. It runs in a node.
 *
 * Exit status: 0 done, or on; 2 off (of status); 1 failed. And whatever a controller's fault makes of it: `watari-lab
 * bmc NODE FAULT` decides from outside how this program misbehaves, so that what calls agents can be tested. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DOOR "/run/lab/hw/bmc.sock"
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_OFF = 2, EXIT_GARBAGE = 77, ANSWER_BYTES = 200, OPTION_BYTES = 512 };

static const char metadata[] =
	"<?xml version=\"1.0\" ?>\n"
	"<resource-agent name=\"fence_lab\" shortdesc=\"Fence agent for watari's lab\" >\n"
	"<longdesc>Switches the power of a node of a lab that watari-lab has made. It works inside that lab's nodes "
	"alone. ip, username and password are taken, as a real controller would want them, and not looked "
	"at.</longdesc>\n"
	"<vendor-url></vendor-url>\n"
	"<parameters>\n"
	"\t<parameter name=\"action\" unique=\"0\" required=\"1\">\n"
	"\t\t<getopt mixed=\"-o, --action=[action]\" />\n"
	"\t\t<content type=\"string\" default=\"reboot\"  />\n"
	"\t\t<shortdesc lang=\"en\">Fencing action</shortdesc>\n"
	"\t</parameter>\n"
	"\t<parameter name=\"ip\" unique=\"0\" required=\"0\" obsoletes=\"ipaddr\">\n"
	"\t\t<getopt mixed=\"-a, --ip=[ip]\" />\n"
	"\t\t<content type=\"string\"  />\n"
	"\t\t<shortdesc lang=\"en\">IP address or hostname of fencing device</shortdesc>\n"
	"\t</parameter>\n"
	"\t<parameter name=\"username\" unique=\"0\" required=\"0\" obsoletes=\"login\">\n"
	"\t\t<getopt mixed=\"-l, --username=[name]\" />\n"
	"\t\t<content type=\"string\"  />\n"
	"\t\t<shortdesc lang=\"en\">Login name</shortdesc>\n"
	"\t</parameter>\n"
	"\t<parameter name=\"password\" unique=\"0\" required=\"0\" obsoletes=\"passwd\">\n"
	"\t\t<getopt mixed=\"-p, --password=[password]\" />\n"
	"\t\t<content type=\"string\"  />\n"
	"\t\t<shortdesc lang=\"en\">Login password or passphrase</shortdesc>\n"
	"\t</parameter>\n"
	"\t<parameter name=\"plug\" unique=\"0\" required=\"1\" obsoletes=\"port\">\n"
	"\t\t<getopt mixed=\"-n, --plug=[id]\" />\n"
	"\t\t<content type=\"string\"  />\n"
	"\t\t<shortdesc lang=\"en\">The node's name in the lab: n1, n2, ...</shortdesc>\n"
	"\t</parameter>\n"
	"\t<parameter name=\"login\" unique=\"0\" required=\"0\" deprecated=\"1\">\n"
	"\t\t<getopt mixed=\"-l, --username=[name]\" />\n"
	"\t\t<content type=\"string\"  />\n"
	"\t\t<shortdesc lang=\"en\">Login name</shortdesc>\n"
	"\t</parameter>\n"
	"\t<parameter name=\"passwd\" unique=\"0\" required=\"0\" deprecated=\"1\">\n"
	"\t\t<getopt mixed=\"-p, --password=[password]\" />\n"
	"\t\t<content type=\"string\"  />\n"
	"\t\t<shortdesc lang=\"en\">Login password or passphrase</shortdesc>\n"
	"\t</parameter>\n"
	"\t<parameter name=\"port\" unique=\"0\" required=\"1\" deprecated=\"1\">\n"
	"\t\t<getopt mixed=\"-n, --plug=[id]\" />\n"
	"\t\t<content type=\"string\"  />\n"
	"\t\t<shortdesc lang=\"en\">The node's name in the lab: n1, n2, ...</shortdesc>\n"
	"\t</parameter>\n"
	"</parameters>\n"
	"<actions>\n"
	"\t<action name=\"on\" automatic=\"0\"/>\n"
	"\t<action name=\"off\" />\n"
	"\t<action name=\"reboot\" />\n"
	"\t<action name=\"status\" />\n"
	"\t<action name=\"list\" />\n"
	"\t<action name=\"list-status\" />\n"
	"\t<action name=\"monitor\" />\n"
	"\t<action name=\"metadata\" />\n"
	"\t<action name=\"manpage\" />\n"
	"\t<action name=\"validate-all\" />\n"
	"</actions>\n"
	"</resource-agent>\n";

struct options {
	char action[OPTION_BYTES];
	char plug[OPTION_BYTES];
	char nodename[OPTION_BYTES];
	char ignored[OPTION_BYTES]; /* what a real controller would want */
};

static const struct {
	const char *name;
	size_t offset;
} known[] = {
	{"action", offsetof(struct options, action)},
	{"plug", offsetof(struct options, plug)},
	{"port", offsetof(struct options, plug)},
	{"nodename", offsetof(struct options, nodename)},
	{"ip", offsetof(struct options, ignored)},
	{"ipaddr", offsetof(struct options, ignored)},
	{"username", offsetof(struct options, ignored)},
	{"login", offsetof(struct options, ignored)},
	{"password", offsetof(struct options, ignored)},
	{"passwd", offsetof(struct options, ignored)},
};

/* Blank lines and comments are skipped, unknown names too, with a word about it, as the stock agents do. */
static void read_options(struct options *options)
{
	char line[1024];

	while (fgets(line, sizeof(line), stdin)) {
		char *value = strchr(line, '=');
		size_t i = 0;

		line[strcspn(line, "\n")] = 0;
		if (!line[0] || line[0] == '#')
			continue;
		if (value)
			*value++ = 0;
		while (i < sizeof(known) / sizeof(*known) && strcmp(known[i].name, line))
			i++;
		if (!value || i == sizeof(known) / sizeof(*known))
			fprintf(stderr, "Parse error: Ignoring unknown option '%.60s'\n", line);
		else
			snprintf((char *)options + known[i].offset, OPTION_BYTES, "%s", value);
	}
}

/* Bytes that are no text: NUL, escapes, broken UTF-8, a line without end. */
static void print_bytes(size_t bytes)
{
	static char block[65536];

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (char)(i * 167 + i / 251);
	for (size_t done = 0; done < bytes; done += sizeof(block))
		if (fwrite(block, 1, sizeof(block), stdout) != sizeof(block))
			return;
	fwrite(block, 1, 512, stderr);
	fflush(stdout);
}

/* As agents hang that wait for a tool of theirs which waits for a dead controller: SIGTERM is not heard, and the tool
 * holds the agent's output open. */
__attribute__((noreturn)) static void hang(void)
{
	signal(SIGTERM, SIG_IGN);
	if (fork() == 0) {
		signal(SIGTERM, SIG_DFL);
		alarm(600); /* it is nobody's child once the agent was killed */
	}
	for (;;)
		pause();
}

static bool ask(const char *order, const char *action, const char *plug, char answer[ANSWER_BYTES])
{
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = DOOR};
	char line[ANSWER_BYTES];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	FILE *stream = fd < 0 ? NULL : fdopen(fd, "r");
	int bytes = snprintf(line, sizeof(line), "%s%s %s\n", order, action, plug);
	bool is_good = stream && bytes < (int)sizeof(line) && !strpbrk(plug, " \n") &&
		       connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
		       send(fd, line, (size_t)bytes, MSG_NOSIGNAL) == bytes && fgets(answer, ANSWER_BYTES, stream);

	if (stream)
		fclose(stream);
	if (is_good)
		answer[strcspn(answer, "\n")] = 0;
	return is_good;
}

static int fail(const char *text)
{
	fprintf(stderr, "Failed: %s\n", text);
	return EXIT_FAILED;
}

/* What the controller's fault makes of this program; returns for those that end in doing the work after all. */
static void act_out(const char *fault)
{
	const struct rlimit no_core = {0, 0};

	if (!strcmp(fault, "hang"))
		hang();
	if (!strcmp(fault, "garbage")) {
		print_bytes(1 << 20);
		_exit(EXIT_GARBAGE);
	}
	if (!strcmp(fault, "crash")) {
		setrlimit(RLIMIT_CORE, &no_core);
		signal(SIGSEGV, SIG_DFL);
		raise(SIGSEGV);
	}
	if (!strcmp(fault, "huge"))
		print_bytes(1 << 30);
}

/* Sends the order; the controller's answer is "on", "off" or an error. */
static int order(const char *action, const char *plug, char answer[ANSWER_BYTES])
{
	const char *gone = "Unable to connect/login to fencing device";

	if (!ask("", action, plug, answer))
		return fail(gone);
	if (!strcmp(answer, "fault gone"))
		return fail(gone);
	if (!strncmp(answer, "fault ", 6)) {
		act_out(answer + 6);
		if (!ask("do ", action, plug, answer))
			return fail(gone);
	}
	if (strcmp(answer, "on") && strcmp(answer, "off"))
		return fail(answer);
	return EXIT_DONE;
}

static int switch_to(const char *want, const char *plug)
{
	char answer[ANSWER_BYTES];

	if (order(want, plug, answer) != EXIT_DONE)
		return EXIT_FAILED;
	if (strcmp(answer, want))
		return fail(answer);
	printf("Success: Powered %s\n", !strcmp(want, "on") ? "ON" : "OFF");
	return EXIT_DONE;
}

static int status(const char *plug)
{
	char answer[ANSWER_BYTES];

	if (order("status", plug, answer) != EXIT_DONE)
		return EXIT_FAILED;
	printf("Status: %s\n", !strcmp(answer, "on") ? "ON" : "OFF");
	return strcmp(answer, "on") ? EXIT_OFF : EXIT_DONE;
}

static int list(bool with_status)
{
	char answer[ANSWER_BYTES], state[ANSWER_BYTES] = "", *save;

	if (!ask("", "list", "", answer) || strncmp(answer, "list ", 5))
		return fail("Unable to connect/login to fencing device");
	for (char *name = strtok_r(answer + 5, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
		if (!with_status)
			printf("%s,%s\n", name, name);
		else if (ask("do ", "status", name, state))
			printf("%s,%s,%s\n", name, name, state);
	}
	return EXIT_DONE;
}

int main(int argc, char **argv)
{
	struct options options = {.action = "reboot"};
	char answer[ANSWER_BYTES];

	/* As a person calls it: the two things that need no node. */
	if (argc == 3 && !strcmp(argv[1], "-o"))
		snprintf(options.action, sizeof(options.action), "%s", argv[2]);
	else if (argc == 1)
		read_options(&options);
	else
		return fail(
			"usage: fence_lab [-o metadata|list], or options as name=value lines on the standard input");
	const char *action = options.action, *plug = options.plug[0] ? options.plug : options.nodename;

	if (!strcmp(action, "metadata") || !strcmp(action, "manpage"))
		return fputs(metadata, stdout) < 0;
	if (!strcmp(action, "list") || !strcmp(action, "list-status"))
		return list(!strcmp(action, "list-status"));
	if (!strcmp(action, "monitor"))
		return ask("", "list", "", answer) ? EXIT_DONE : fail("Unable to connect/login to fencing device");
	if (!plug[0])
		return fail("You have to enter plug number or machine identification");
	if (!strcmp(action, "validate-all"))
		return EXIT_DONE;
	if (!strcmp(action, "status"))
		return status(plug);
	if (!strcmp(action, "off") || !strcmp(action, "on"))
		return switch_to(action, plug);
	if (!strcmp(action, "reboot"))
		return switch_to("off", plug) || switch_to("on", plug);
	return fail("Unrecognised action");
}
