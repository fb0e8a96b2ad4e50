/*
 * tree: libyaml's events made into a tree with positions.
 *
 * Theory of operation: one pass over the events with a stack of open lists and maps, which is at
 * most TREE_DEPTH_MAX high; so neither we nor libyaml's scanner go deep. Nothing is expanded:
 * aliases are refused where they stand, and with them anchors and tags. A tree has fewer nodes
 * than its text has bytes, and the text is bounded by CONFIG_FILE_MAX. The caller owns the tree.
 *
 * Errors of syntax end the reading, since nothing after them can be trusted; what is merely not
 * ours (an alias, a second document) is reported, and reading goes on.
 */
#include "config/tree.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "config/xalloc.h"

struct reader {
	const char *name;
	struct config_errors *e;
	struct node *root;
	struct node *open[TREE_DEPTH_MAX];
	size_t depth;
	unsigned documents;
};

static void wrong(struct reader *r, const yaml_mark_t *at, const char *what)
{
	config_errors_add(r->e, "%s:%zu:%zu: %s", r->name, at->line + 1, at->column + 1, what);
}

struct node *tree_free(struct node *node)
{
	/* Depth is bounded by TREE_DEPTH_MAX. */
	while (node) {
		struct node *next = node->next;

		tree_free(node->first);
		free(node->value);
		free(node);
		node = next;
	}
	return NULL;
}

static struct node *add(struct reader *r, enum node_type type, const yaml_mark_t *at)
{
	struct node *node = xcalloc(1, sizeof(*node));
	struct node *parent = r->depth ? r->open[r->depth - 1] : NULL;

	node->type = type;
	node->line = at->line + 1;
	node->column = at->column + 1;
	if (parent) {
		if (parent->last)
			parent->last->next = node;
		else
			parent->first = node;
		parent->last = node;
		parent->n++;
	} else if (!r->root) {
		r->root = node;
	} else { /* of a second document, reported already */
		node->next = r->root->next;
		r->root->next = node;
	}
	return node;
}

static void refuse_anchor(struct reader *r, const yaml_event_t *ev, const yaml_char_t *anchor,
			  const yaml_char_t *tag)
{
	if (anchor)
		wrong(r, &ev->start_mark,
		      "an anchor (&...); expected values written out, anchors and aliases are not "
		      "supported");
	if (tag)
		wrong(r, &ev->start_mark, "a tag (!...); expected a value without a tag");
}

static void add_scalar(struct reader *r, const yaml_event_t *ev)
{
	const char *value = (const char *)ev->data.scalar.value;
	size_t len = ev->data.scalar.length;
	struct node *node = add(r, NODE_SCALAR, &ev->start_mark);

	refuse_anchor(r, ev, ev->data.scalar.anchor, ev->data.scalar.tag);
	node->plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	if (memchr(value, '\0', len)) {
		wrong(r, &ev->start_mark, "a NUL byte in a value; expected text");
		node->type = NODE_BAD;
		len = 0;
	}
	node->value = xstrndup(value, len);
}

static int open_node(struct reader *r, enum node_type type, const yaml_event_t *ev)
{
	struct node *node;

	if (r->depth == TREE_DEPTH_MAX) {
		wrong(r, &ev->start_mark, "nested too deep; expected at most 16 levels");
		return -1;
	}
	node = add(r, type, &ev->start_mark);
	r->open[r->depth++] = node;
	return 0;
}

/* 1: go on, 0: the end, -1: stop, an error is reported. */
static int take(struct reader *r, const yaml_event_t *ev)
{
	switch (ev->type) {
	case YAML_STREAM_END_EVENT:
		return 0;
	case YAML_DOCUMENT_START_EVENT:
		if (r->documents++ == 1)
			wrong(r, &ev->start_mark,
			      "a second document; expected one document a file");
		break;
	case YAML_ALIAS_EVENT:
		wrong(r, &ev->start_mark,
		      "an alias (*...); expected the value written out, anchors and aliases are "
		      "not supported");
		add(r, NODE_BAD, &ev->start_mark);
		break;
	case YAML_SCALAR_EVENT:
		add_scalar(r, ev);
		break;
	case YAML_SEQUENCE_START_EVENT:
		refuse_anchor(r, ev, ev->data.sequence_start.anchor, ev->data.sequence_start.tag);
		return open_node(r, NODE_LIST, ev) < 0 ? -1 : 1;
	case YAML_MAPPING_START_EVENT:
		refuse_anchor(r, ev, ev->data.mapping_start.anchor, ev->data.mapping_start.tag);
		return open_node(r, NODE_MAP, ev) < 0 ? -1 : 1;
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		r->depth--;
		break;
	default:
		break;
	}
	return 1;
}

/* libyaml knows only the offset of bytes that are no text; the line is counted here. */
static void text_error(struct reader *r, const yaml_parser_t *p, const char *text, size_t len)
{
	size_t line = 1, column = 1;

	for (size_t i = 0; i < p->problem_offset && i < len; i++) {
		column++;
		if (text[i] == '\n') {
			line++;
			column = 1;
		}
	}
	config_errors_add(r->e, "%s:%zu:%zu: not valid text: %s; expected UTF-8", r->name, line,
			  column, p->problem);
}

static void syntax_error(struct reader *r, const yaml_parser_t *p)
{
	const char *problem = p->problem ? p->problem : "out of memory";

	config_errors_add(r->e, "%s:%zu:%zu: not valid YAML: %s%s%s; expected YAML 1.1", r->name,
			  p->problem_mark.line + 1, p->problem_mark.column + 1, problem,
			  p->context ? " " : "", p->context ? p->context : "");
}

struct node *tree_read(const char *name, const char *text, size_t len, struct config_errors *e)
{
	struct reader r = { .name = name, .e = e };
	yaml_parser_t parser;
	int more = 1;

	if (len > CONFIG_FILE_MAX) {
		config_errors_add(e, "%s:1:1: %zu bytes; expected at most %d", name, len,
				  CONFIG_FILE_MAX);
		return NULL;
	}
	if (!yaml_parser_initialize(&parser)) {
		config_errors_add(e, "%s:1:1: out of memory; expected some", name);
		return NULL;
	}
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
	yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
	while (more > 0) {
		yaml_event_t ev;

		if (!yaml_parser_parse(&parser, &ev)) {
			if (parser.error == YAML_READER_ERROR)
				text_error(&r, &parser, text, len);
			else
				syntax_error(&r, &parser);
			more = -1;
			break;
		}
		more = take(&r, &ev);
		yaml_event_delete(&ev);
	}
	yaml_parser_delete(&parser);
	/* A document with nothing in it is one empty value. */
	if (more == 0 && (!r.root || (r.root->type == NODE_SCALAR && !r.root->value[0]))) {
		config_errors_add(e, "%s:1:1: the file is empty; expected keys and their values",
				  name);
		more = -1;
	}
	if (more < 0)
		return tree_free(r.root);
	return r.root;
}

const struct node *node_get(const struct node *map, const char *key)
{
	if (!map || map->type != NODE_MAP)
		return NULL;
	for (const struct node *k = map->first; k && k->next; k = k->next->next)
		if (k->type == NODE_SCALAR && strcmp(k->value, key) == 0)
			return k->next;
	return NULL;
}

const struct node *node_at(const struct node *list, size_t i)
{
	const struct node *node = list && list->type == NODE_LIST ? list->first : NULL;

	for (; node && i > 0; i--)
		node = node->next;
	return node;
}
