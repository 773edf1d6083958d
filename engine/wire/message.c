#include "moonrise/wire/message.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGE_BYTES   (4 * 1024 * 1024)
#define MESSAGE_NESTING 16
#define MESSAGE_EXACT   9007199254740992.0 /* 2^53: up to here a real is a whole number */

/* A message is jansson's object under another name. */
static json_t *
json_of(const struct message *m)
{
    return (json_t *)m;
}

static const struct message *
message_of(const json_t *json)
{
    return json_is_object(json) ? (const struct message *)json : NULL;
}

struct message *
message_new(void)
{
    json_t *json = json_object();
    must(json);
    return (struct message *)json;
}

/* jansson parses 2048 levels deep, each a call of its own, and is freed the same way. */
static int
message_check_nesting(const char *text, size_t len, struct err *e)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < len; i++) {
        if (quoted) {
            i += text[i] == '\\';
            quoted = i >= len || text[i] != '"';
        } else if (text[i] == '"') {
            quoted = true;
        } else if (text[i] == '{' || text[i] == '[') {
            if (++depth > MESSAGE_NESTING)
                return err_set(e, ERR_PROTOCOL, "a message is nested deeper than %d levels",
                               MESSAGE_NESTING);
        } else if (text[i] == '}' || text[i] == ']') {
            depth--;
        }
    }
    return 0;
}

int
message_parse(struct message **out, const char *text, size_t len, struct err *e)
{
    *out = NULL;
    if (len > MESSAGE_BYTES)
        return err_set(e, ERR_PROTOCOL, "a message of %zu bytes is too long", len);
    int rc = message_check_nesting(text, len, e);
    if (rc != 0)
        return rc;
    json_error_t why;
    json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (!json)
        return err_set(e, ERR_PROTOCOL, "a message is no JSON: %s", why.text);
    if (!json_is_object(json)) {
        json_decref(json);
        return err_set(e, ERR_PROTOCOL, "a message is no JSON object");
    }
    *out = (struct message *)json;
    return 0;
}

char *
message_format(const struct message *m)
{
    char *text = json_dumps(json_of(m), JSON_COMPACT);
    must(text);
    return text;
}

void
message_free(struct message *m)
{
    json_decref(json_of(m));
}

static int
message_lacks(const struct message *m, const char *key, const char *type, struct err *e)
{
    return err_set(e, ERR_PROTOCOL, "field %s is %s", key,
                   json_object_get(json_of(m), key) ? type : "missing");
}

static bool
message_whole(const json_t *value, int64_t *out)
{
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    double real = json_real_value(value);
    if (!json_is_real(value) || fabs(real) > MESSAGE_EXACT || real != floor(real))
        return false;
    *out = (int64_t)real;
    return true;
}

int
message_need_text(const struct message *m, const char *key, const char **out, struct err *e)
{
    *out = json_string_value(json_object_get(json_of(m), key));
    return *out ? 0 : message_lacks(m, key, "no text", e);
}

int
message_need_int(const struct message *m, const char *key, int64_t *out, struct err *e)
{
    if (message_whole(json_object_get(json_of(m), key), out))
        return 0;
    return message_lacks(m, key, "no whole number", e);
}

const char *
message_text(const struct message *m, const char *key, const char *otherwise)
{
    const char *text = json_string_value(json_object_get(json_of(m), key));
    return text ? text : otherwise;
}

int64_t
message_int(const struct message *m, const char *key, int64_t otherwise)
{
    int64_t value;
    return message_whole(json_object_get(json_of(m), key), &value) ? value : otherwise;
}

bool
message_bool(const struct message *m, const char *key, bool otherwise)
{
    const json_t *value = json_object_get(json_of(m), key);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

const struct message *
message_object(const struct message *m, const char *key)
{
    return message_of(json_object_get(json_of(m), key));
}

size_t
message_count(const struct message *m, const char *key)
{
    return json_array_size(json_object_get(json_of(m), key));
}

const struct message *
message_item(const struct message *m, const char *key, size_t i)
{
    return message_of(json_array_get(json_object_get(json_of(m), key), i));
}

const char *
message_text_item(const struct message *m, const char *key, size_t i)
{
    return json_string_value(json_array_get(json_object_get(json_of(m), key), i));
}

void
message_each(const struct message *m, const char *key,
             void (*fn)(void *arg, const char *name, const char *text), void *arg)
{
    const char *name;
    json_t *value;
    char number[40];
    json_object_foreach(json_object_get(json_of(m), key), name, value)
    {
        switch (json_typeof(value)) {
        case JSON_STRING:
            fn(arg, name, json_string_value(value));
            break;
        case JSON_INTEGER:
            snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
            fn(arg, name, number);
            break;
        case JSON_REAL:
            snprintf(number, sizeof(number), "%.17g", json_real_value(value));
            fn(arg, name, number);
            break;
        case JSON_TRUE:
        case JSON_FALSE:
            fn(arg, name, json_is_true(value) ? "true" : "false");
            break;
        default:
            break;
        }
    }
}

/* How many bytes at `s` jansson takes for a character, 0 when none. */
static size_t
message_character(const char *s)
{
    for (size_t len = 1; len <= 4 && strnlen(s, len) == len; len++) {
        json_t *json = json_stringn(s, len);
        if (json) {
            json_decref(json);
            return len;
        }
    }
    return 0;
}

/* JSON is UTF-8, and a file name or a server's message may be anything: what is no character becomes
 * U+FFFD. */
static json_t *
message_string(const char *text)
{
    json_t *json = json_string(text);
    if (json)
        return json;
    struct str clean = STR_INIT;
    while (*text) {
        size_t len = message_character(text);
        str_append(&clean, len ? text : "\xEF\xBF\xBD", len ? len : 3);
        text += len ? len : 1;
    }
    json = json_string(clean.data);
    must(json);
    str_free(&clean);
    return json;
}

static void
message_put(struct message *m, const char *key, json_t *value)
{
    must(value && json_object_set_new(json_of(m), key, value) == 0);
}

static void
message_add(struct message *m, const char *key, json_t *value)
{
    json_t *array = json_object_get(json_of(m), key);
    if (!json_is_array(array)) {
        array = json_array();
        message_put(m, key, array);
    }
    must(value && json_array_append_new(array, value) == 0);
}

void
message_set_text(struct message *m, const char *key, const char *text)
{
    message_put(m, key, text ? message_string(text) : json_null());
}

void
message_set_int(struct message *m, const char *key, int64_t value)
{
    message_put(m, key, json_integer(value));
}

void
message_set_real(struct message *m, const char *key, double value)
{
    message_put(m, key, isfinite(value) ? json_real(value) : json_null());
}

void
message_set_bool(struct message *m, const char *key, bool value)
{
    message_put(m, key, json_boolean(value));
}

void
message_set_take(struct message *m, const char *key, struct message *object)
{
    message_put(m, key, json_of(object));
}

void
message_set_shared(struct message *m, const char *key, const struct message *object)
{
    message_put(m, key, json_incref(json_of(object)));
}

void
message_append_take(struct message *m, const char *key, struct message *object)
{
    message_add(m, key, json_of(object));
}

void
message_append_text(struct message *m, const char *key, const char *text)
{
    message_add(m, key, message_string(text));
}

struct message *
message_of_error(const struct err *e)
{
    struct message *m = message_new();
    message_set_text(m, "code", err_name(e->code));
    message_set_text(m, "message", e->message);
    if (e->hint[0])
        message_set_text(m, "hint", e->hint);
    if (e->sqlstate[0])
        message_set_text(m, "sqlstate", e->sqlstate);
    if (e->sys_errno)
        message_set_int(m, "errno", e->sys_errno);
    return m;
}

void
message_error(struct err *out, const struct message *m)
{
    int code = err_code_of(message_text(m, "code", ""));
    err_set(out, code ? code : ERR_PROTOCOL, "%s", message_text(m, "message", "no reason given"));
    out->sys_errno = (int)message_int(m, "errno", 0);
    snprintf(out->sqlstate, sizeof(out->sqlstate), "%s", message_text(m, "sqlstate", ""));
    snprintf(out->hint, sizeof(out->hint), "%s", message_text(m, "hint", ""));
}
