/* The secret of a password: its shape; that servers take it is what every spec with a cluster shows. */
#include "../lib/tmpdir.h"

#include "moonrise/conn/scram.h"

#include <regex.h>

static void
test_secret(void **state)
{
    (void)state;
    regex_t shape;
    assert_int_equal(regcomp(&shape,
                             "^SCRAM-SHA-256\\$1:[A-Za-z0-9+/]{22}==\\$[A-Za-z0-9+/]{43}=:"
                             "[A-Za-z0-9+/]{43}=$",
                             REG_EXTENDED | REG_NOSUB),
                     0);
    char *one = scram_secret("password"), *other = scram_secret("password");
    assert_int_equal(regexec(&shape, one, 0, NULL, 0), 0);
    assert_int_equal(regexec(&shape, other, 0, NULL, 0), 0);
    assert_string_not_equal(one, other);
    free(one);
    free(other);
    regfree(&shape);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_secret)};
    return cmocka_run_group_tests_name("conn_scram", tests, NULL, NULL);
}
