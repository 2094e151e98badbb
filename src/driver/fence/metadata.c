/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/fence/metadata.h"

#include <libxml/parser.h>
#include <libxml/tree.h>
#include <string.h>

static void cleanup_doc(xmlDoc **doc)
{
	xmlFreeDoc(*doc);
}

static void cleanup_context(xmlParserCtxt **context)
{
	xmlFreeParserCtxt(*context);
}

static bool is_element(const xmlNode *node, const char *name)
{
	return node->type == XML_ELEMENT_NODE && !xmlStrcmp(node->name, (const xmlChar *)name);
}

/* The attribute as plain text; false when it is absent or does not fit. */
static bool attribute(xmlNode *node, const char *name, char *to, size_t capacity)
{
	xmlChar *value = xmlGetNoNsProp(node, (const xmlChar *)name);
	size_t length = value ? strlen((char *)value) : 0;
	bool fits = value && length < capacity && schema_text_ok((char *)value, length);

	if (fits)
		memcpy(to, value, length + 1);
	xmlFree(value);
	return fits;
}

static bool is_set(xmlNode *node, const char *name)
{
	char value[8];

	return attribute(node, name, value, sizeof(value)) && (!strcmp(value, "1") || !strcmp(value, "true"));
}

/* For a person: cut where it is too long, and nothing but printable ASCII. */
static void take_words(xmlChar *words, char *to, size_t capacity)
{
	snprintf(to, capacity, "%s", words ? (char *)words : "");
	for (char *c = to; *c; c++)
		if (*c < 0x20 || *c >= 0x7f)
			*c = *c == '\n' || *c == '\t' ? ' ' : '?';
	xmlFree(words);
}

static void take_content(xmlNode *content, struct fence_parameter *parameter)
{
	char type[16] = "";

	attribute(content, "type", type, sizeof(type));
	take_words(xmlGetNoNsProp(content, (const xmlChar *)"default"), parameter->standard, sizeof(parameter->standard));
	if (!strcmp(type, "boolean"))
		parameter->type = PARAMETER_BOOL;
	else if (!strcmp(type, "integer") || !strcmp(type, "second"))
		parameter->type = PARAMETER_NUMBER;
	else if (!strcmp(type, "select"))
		parameter->type = PARAMETER_CHOICE;
	for (xmlNode *node = content->children; node; node = node->next) {
		if (!is_element(node, "option"))
			continue;
		/* More, or longer ones, than we can keep: then we cannot say that a value is wrong. */
		if (parameter->choice_count == METADATA_CHOICES_MAX ||
			!attribute(node, "value", parameter->choices[parameter->choice_count],
				sizeof(parameter->choices[0]))) {
			parameter->type = PARAMETER_TEXT;
			parameter->choice_count = 0;
			return;
		}
		parameter->choice_count++;
	}
}

static int take_parameters(xmlNode *parameters, struct fence_metadata *metadata, struct err *err)
{
	for (xmlNode *node = parameters->children; node; node = node->next) {
		struct fence_parameter parameter = {0};
		/* A name that no device's option can have is nobody's loss. */
		if (!is_element(node, "parameter") || !attribute(node, "name", parameter.name, sizeof(parameter.name)))
			continue;
		if (metadata->parameter_count == METADATA_PARAMETERS_MAX)
			return err_set(err, ERR_PROTOCOL, "more than %d parameters", METADATA_PARAMETERS_MAX);
		attribute(node, "obsoletes", parameter.obsoletes, sizeof(parameter.obsoletes));
		parameter.required = is_set(node, "required");
		parameter.deprecated = is_set(node, "deprecated");
		for (xmlNode *content = node->children; content; content = content->next) {
			if (is_element(content, "content"))
				take_content(content, &parameter);
			if (is_element(content, "shortdesc") && !parameter.about[0])
				take_words(xmlNodeGetContent(content), parameter.about, sizeof(parameter.about));
		}
		metadata->parameters[metadata->parameter_count++] = parameter;
	}
	return 0;
}

static void take_actions(xmlNode *actions, struct fence_metadata *metadata)
{
	char name[16];

	for (xmlNode *node = actions->children; node; node = node->next) {
		if (!is_element(node, "action") || !attribute(node, "name", name, sizeof(name)))
			continue;
		metadata->off |= !strcmp(name, "off");
		metadata->on |= !strcmp(name, "on");
		metadata->status |= !strcmp(name, "status");
	}
}

static void take_about(xmlNode *root, struct fence_metadata *metadata)
{
	take_words(xmlGetNoNsProp(root, (const xmlChar *)"shortdesc"), metadata->about, sizeof(metadata->about));
}

static int refuse(const xmlParserCtxt *context, struct err *err)
{
	const xmlError *error = xmlCtxtGetLastError((void *)(uintptr_t)context);
	char text[128];

	if (!error || !error->message)
		return err_set(err, ERR_PROTOCOL, "not XML");
	snprintf(text, sizeof(text), "%s", error->message);
	for (char *c = text; *c; c++)
		if (*c < 0x20 || *c >= 0x7f)
			*c = c[1] ? '?' : 0;
	return err_set(err, ERR_PROTOCOL, "not XML: line %d: %s", error->line, text);
}

static int read_document(const char *bytes, size_t size, xmlDoc **doc, struct err *err)
{
	/* Nothing is fetched, no entity is put in its place, what is wrong is not repaired and not printed. */
	const int options = XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NOCDATA;

	if (size > METADATA_BYTES_MAX)
		return err_set(err, ERR_PROTOCOL, "more than %d KiB", METADATA_BYTES_MAX >> 10);
	/* Attribute values would have their entities put in while parsing. No agent has a document type. */
	if (memmem(bytes, size, "<!DOCTYPE", 9) || memmem(bytes, size, "<!ENTITY", 8))
		return err_set(err, ERR_PROTOCOL, "a document type or an entity");
	CLEANUP(cleanup_context) xmlParserCtxt *context = xmlNewParserCtxt();
	if (!context)
		return err_set(err, ERR_SYSTEM, "out of memory");
	/* The encoding is given, so that what was searched above is what is parsed. */
	*doc = xmlCtxtReadMemory(context, bytes, (int)size, "metadata", "UTF-8", options);
	return *doc ? 0 : refuse(context, err);
}

int fence_metadata_parse(const char *bytes, size_t size, struct fence_metadata *metadata, struct err *err)
{
	CLEANUP(cleanup_doc) xmlDoc *doc = NULL;

	*metadata = (struct fence_metadata){0};
	if (read_document(bytes, size, &doc, err) < 0)
		return -1;
	xmlNode *root = xmlDocGetRootElement(doc);
	if (!root || !is_element(root, "resource-agent"))
		return err_set(err, ERR_PROTOCOL, "not a <resource-agent>");
	take_about(root, metadata);
	for (xmlNode *node = root->children; node; node = node->next) {
		if (is_element(node, "parameters") && take_parameters(node, metadata, err) < 0)
			return -1;
		if (is_element(node, "actions"))
			take_actions(node, metadata);
	}
	return 0;
}

void fence_metadata_tell(const struct fence_metadata *metadata, struct fence_agent_about *about)
{
	memset(about, 0, sizeof(*about));
	memcpy(about->about, metadata->about, sizeof(about->about));
	for (uint32_t i = 0; i < metadata->parameter_count && about->option_count < FENCE_ABOUT_MAX; i++) {
		const struct fence_parameter *parameter = &metadata->parameters[i];
		struct fence_option_about *to = &about->options[about->option_count];
		/* Not what watari says itself or refuses, and of two names for one thing the newer one. */
		if (parameter->deprecated || fence_option_taken(parameter->name))
			continue;
		about->option_count++;
		memcpy(to->name, parameter->name, sizeof(to->name));
		memcpy(to->about, parameter->about, sizeof(to->about));
		memcpy(to->standard, parameter->standard, sizeof(to->standard));
		to->required = parameter->required;
		to->secret = fence_option_is_secret(parameter->name);
	}
}

static const struct fence_option *option_of(const struct fence_device *device, const char *name)
{
	for (uint32_t i = 0; i < device->option_count; i++)
		if (fence_option_same(device->options[i].name, name))
			return &device->options[i];
	return NULL;
}

/* Given, under this name, the older one or the newer one. */
static bool is_given(const struct fence_metadata *metadata, const struct fence_parameter *parameter,
	const struct fence_device *device)
{
	if (option_of(device, parameter->name) || (parameter->obsoletes[0] && option_of(device, parameter->obsoletes)))
		return true;
	for (uint32_t i = 0; i < metadata->parameter_count; i++)
		if (fence_option_same(metadata->parameters[i].obsoletes, parameter->name) &&
			option_of(device, metadata->parameters[i].name))
			return true;
	return false;
}

static int value_check(const struct fence_parameter *parameter, const struct fence_option *option, struct err *err)
{
	static const char *const bools[] = {"0", "1", "on", "off", "yes", "no", "true", "false"};
	const char *value = option->value;

	switch (parameter->type) {
	case PARAMETER_TEXT:
		return 0;
	case PARAMETER_BOOL:
		for (size_t i = 0; i < ARRAY_SIZE(bools); i++)
			if (!strcmp(bools[i], value))
				return 0;
		return err_set(err, ERR_INVALID, "option %s: 1 or 0", option->name);
	case PARAMETER_NUMBER:
		if (value[0] && strspn(value + (value[0] == '-'), "0123456789.") == strlen(value) - (value[0] == '-'))
			return 0;
		return err_set(err, ERR_INVALID, "option %s: a number", option->name);
	case PARAMETER_CHOICE:
		for (uint32_t i = 0; i < parameter->choice_count; i++)
			if (!strcmp(parameter->choices[i], value))
				return 0;
		break;
	}
	char known[160] = "";
	for (uint32_t i = 0; i < parameter->choice_count; i++)
		snprintf(known + strlen(known), sizeof(known) - strlen(known), "%s%s", i ? ", " : "",
			parameter->choices[i]);
	return err_set(err, ERR_INVALID, "option %s: one of %s", option->name, known);
}

static int option_check(const struct fence_metadata *metadata, const struct fence_device *device,
	const struct fence_option *option, struct err *err)
{
	for (uint32_t i = 0; i < metadata->parameter_count; i++)
		if (fence_option_same(metadata->parameters[i].name, option->name))
			return option->secret ? 0 : value_check(&metadata->parameters[i], option, err);
	return err_set(err, ERR_INVALID, "%s has no option '%s' ('watari fence agent %s' tells which it has)",
		device->agent, option->name, device->agent);
}

int fence_metadata_check(const struct fence_metadata *metadata, const struct fence_device *device, struct err *err)
{
	if (!metadata->off || !metadata->status)
		return err_set(err, ERR_UNFIT, "%s has no action '%s': it cannot %s", device->agent,
			metadata->off ? "status" : "off",
			metadata->off ? "prove that a node is off" : "switch a node off");
	for (uint32_t i = 0; i < device->option_count; i++)
		if (option_check(metadata, device, &device->options[i], err) < 0)
			return -1;
	for (uint32_t i = 0; i < metadata->parameter_count; i++) {
		const struct fence_parameter *parameter = &metadata->parameters[i];
		if (!parameter->required || fence_option_same(parameter->name, "action") ||
			is_given(metadata, parameter, device))
			continue;
		return err_set(err, ERR_INVALID, "%s needs the option '%s'", device->agent, parameter->name);
	}
	return 0;
}
