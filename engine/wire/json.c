#include "moonrise/wire/json.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <jansson.h>
#include <stdlib.h>

struct json {
    json_t *root;
};

static bool
json_too_deep(json_t *value, int depth)
{
    if (depth > JSON_DEPTH_MAX)
        return true;
    if (json_is_object(value)) {
        const char *key;
        json_t *member;
        json_object_foreach(value, key, member) if (json_too_deep(member, depth + 1)) return true;
    } else if (json_is_array(value)) {
        size_t i;
        json_t *item;
        json_array_foreach(value, i, item) if (json_too_deep(item, depth + 1)) return true;
    }
    return false;
}

int
json_parse(struct json **out, const char *text, size_t len, struct err *e)
{
    json_error_t why;
    *out = NULL;
    json_t *root =
        json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return err_set(e, ERR_FORMAT, "JSON, line %d column %d: %s", why.line, why.column,
                       why.text);
    if (json_too_deep(root, 0)) {
        json_decref(root);
        return err_set(e, ERR_FORMAT, "JSON: nested deeper than %d", JSON_DEPTH_MAX);
    }
    *out = mem_alloc(sizeof(**out));
    (*out)->root = root;
    return 0;
}

static void json_visit_value(json_t *value, const struct json_visitor *v);

static void
json_visit_object(json_t *object, const struct json_visitor *v)
{
    v->open(v->arg, true, json_object_size(object));
    for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i)) {
        v->key(v->arg, json_object_iter_key(i), json_object_iter_key_len(i));
        json_visit_value(json_object_iter_value(i), v);
    }
    v->close(v->arg, true);
}

static void
json_visit_array(json_t *array, const struct json_visitor *v)
{
    v->open(v->arg, false, json_array_size(array));
    for (size_t i = 0; i < json_array_size(array); i++)
        json_visit_value(json_array_get(array, i), v);
    v->close(v->arg, false);
}

static void
json_visit_value(json_t *value, const struct json_visitor *v)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        json_visit_object(value, v);
        break;
    case JSON_ARRAY:
        json_visit_array(value, v);
        break;
    case JSON_STRING:
        v->text(v->arg, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
    case JSON_REAL:
        v->number(v->arg, json_number_value(value));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        v->boolean(v->arg, json_is_true(value));
        break;
    case JSON_NULL:
        v->null(v->arg);
        break;
    }
}

void
json_visit(const struct json *j, const struct json_visitor *v)
{
    json_visit_value(j->root, v);
}

void
json_free(struct json *j)
{
    if (!j)
        return;
    json_decref(j->root);
    free(j);
}
