/*
 * Whatever bytes come, in whatever pieces, the frame reader and the message parser take them: no bad
 * access, no unbounded memory, and after an error nothing more. libFuzzer's entry point;
 * tests/unit/wire_frame.c drives it with damaged real frames.
 */
#include "moonrise/wire/frame.h"
#include "moonrise/base/err.h"
#include "moonrise/wire/message.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void
fuzz_field(void *arg, const char *name, const char *text)
{
    (void)name;
    *(size_t *)arg += text[0] != '\0';
}

static void
fuzz_message(const struct frame *f)
{
    struct message *m;
    size_t seen = 0;
    int64_t n;
    const char *text;
    if (message_parse(&m, f->payload, f->len, NULL) != 0)
        return;
    message_need_int(m, "protocol", &n, NULL);
    message_need_text(m, "op", &text, NULL);
    message_each(m, "args", fuzz_field, &seen);
    for (size_t i = 0; i < message_count(m, "list"); i++)
        seen += message_text_item(m, "list", i) != NULL || message_item(m, "list", i) != NULL;
    free(message_format(m));
    message_free(m);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct frame_reader r = FRAME_READER_INIT;
    struct frame f;
    int rc = 0;
    /* The first byte says into what pieces the rest is cut. */
    size_t piece = len > 0 ? (size_t)data[0] * 7 + 1 : 1;
    for (size_t at = 1; at < len && rc >= 0; at += piece) {
        frame_reader_feed(&r, data + at, len - at < piece ? len - at : piece);
        while ((rc = frame_reader_next(&r, &f, NULL)) == 1)
            fuzz_message(&f);
    }
    frame_reader_done(&r);
    return 0;
}
