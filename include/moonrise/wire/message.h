/*
 * The body of a control frame: one JSON object (jansson). What comes from the other end is hostile:
 * getters never fail on a wrong type, they report it.
 */
#ifndef MOONRISE_WIRE_MESSAGE_H
#define MOONRISE_WIRE_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct message;

struct message *message_new(void);

/* Parses at most 4 MiB of JSON, an object, nested at most 16 deep. ERR_PROTOCOL. */
int message_parse(struct message **out, const char *text, size_t len, struct err *e);

/* JSON text, to be freed with free(). */
char *message_format(const struct message *m);

void message_free(struct message *m);

/* Required fields: ERR_PROTOCOL names the field that is missing or of another type. Borrowed. */
int message_need_text(const struct message *m, const char *key, const char **out, struct err *e);
int message_need_int(const struct message *m, const char *key, int64_t *out, struct err *e);

/* Optional fields: the default where the field is missing or of another type. */
const char *message_text(const struct message *m, const char *key, const char *otherwise);
int64_t message_int(const struct message *m, const char *key, int64_t otherwise);
bool message_bool(const struct message *m, const char *key, bool otherwise);

/* A nested object or the i-th object of an array, borrowed from `m` (do not free), NULL when none. */
const struct message *message_object(const struct message *m, const char *key);
size_t message_count(const struct message *m, const char *key);
const struct message *message_item(const struct message *m, const char *key, size_t i);
const char *message_text_item(const struct message *m, const char *key, size_t i);

/* Calls fn for each text, number (formatted) or boolean member of the object at `key`, in order. */
void message_each(const struct message *m, const char *key,
                  void (*fn)(void *arg, const char *name, const char *text), void *arg);

/* Setters copy. NULL text stores JSON null; bytes that are no UTF-8 become U+FFFD. */
void message_set_text(struct message *m, const char *key, const char *text);
void message_set_int(struct message *m, const char *key, int64_t value);
void message_set_real(struct message *m, const char *key, double value);
void message_set_bool(struct message *m, const char *key, bool value);
/* Stores an object that both hold from now on; neither may change it. */
void message_set_shared(struct message *m, const char *key, const struct message *object);

/* Store or append an object; takes it over. */
void message_set_take(struct message *m, const char *key, struct message *object);
void message_append_take(struct message *m, const char *key, struct message *object);
void message_append_text(struct message *m, const char *key, const char *text);

/* The body of FRAME_FAIL, to be freed with message_free, and the error that one says. */
struct message *message_of_error(const struct err *e);
void message_error(struct err *out, const struct message *m);

#endif
