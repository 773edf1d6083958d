/*
 * Any JSON text as a series of calls, for those who build values of their own from it.
 *
 * The text is hostile: it is parsed whole (jansson) before the first call, so a visitor sees only what
 * is well formed, valid UTF-8 and no deeper than JSON_DEPTH_MAX. Any thread.
 */
#ifndef MOONRISE_WIRE_JSON_H
#define MOONRISE_WIRE_JSON_H

#include <stdbool.h>
#include <stddef.h>

#define JSON_DEPTH_MAX 64

struct err;

/* Every value is one call; the members of an object or array stand between `open` and `close`, each
 * member of an object after its key. Text may hold NUL bytes and is borrowed. */
struct json_visitor {
    void (*null)(void *arg);
    void (*boolean)(void *arg, bool value);
    void (*number)(void *arg, double value);
    void (*text)(void *arg, const char *text, size_t len);
    void (*open)(void *arg, bool object, size_t count);
    void (*key)(void *arg, const char *key, size_t len);
    void (*close)(void *arg, bool object);
    void *arg;
};

struct json;

/* Parses one JSON value of any kind. ERR_FORMAT says where it is wrong. Free with json_free. */
int json_parse(struct json **out, const char *text, size_t len, struct err *e);

/* Walks through a parsed value. A visitor may leave by a jump (a Lua error). */
void json_visit(const struct json *j, const struct json_visitor *v);

/* NULL is fine. */
void json_free(struct json *j);

#endif
