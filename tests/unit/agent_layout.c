/* An instance whose configuration is not in its data directory. Real servers. */
#include "agent_one.h"

static int
setup_apart(void **state)
{
    setup(state);
    struct lab *lab = *state;
    lab_do(lab, &one, "stop", "\"mode\":\"fast\"");
    /* As if it had never been moonrise's, in files that have meant another directory since. */
    tmpdir_do(lab->dir, "mkdir $DIR/etc && cd $DIR/one && mv postgresql.conf pg_hba.conf "
                        "pg_ident.conf $DIR/etc && rm moonrise.* && cd $DIR/etc && "
                        "sed -i /^include_if_exists/d postgresql.conf && sed -i '/^# moonrise "
                        "begins/,/^# moonrise ends/d' pg_hba.conf && "
                        "echo \"data_directory = '/nowhere'\" >>postgresql.conf && "
                        "echo \"hba_file = '$DIR/etc/pg_hba.conf'\" >>postgresql.conf && "
                        "cp -r . $DIR/before");
    char *more = mem_printf("\"adoption\":\"a1\",\"config_file\":\"%s/etc/postgresql.conf\","
                            "\"hba_file\":\"%s/etc/pg_hba.conf\","
                            "\"ident_file\":\"%s/etc/pg_ident.conf\"",
                            lab->dir, lab->dir, lab->dir);
    lab_do(lab, &one, "adopt", more);
    free(more);
    more = mem_printf("\"settings\":{\"port\":%d,\"listen_addresses\":\"\",\"work_mem\":\"5MB\","
                      "\"unix_socket_directories\":\"%s/one\"},\"hba\":[\"local all x "
                      "reject\",\"local all %s peer\"]",
                      one.port, lab->dir, lab->user);
    lab_do(lab, &one, "configure", more);
    free(more);
    return 0;
}

static void
is_started_with_it(void **state)
{
    struct lab *lab = *state;
    lab_do(lab, &one, "try", "");
    lab_do(lab, &one, "start", "\"listen\":\"\"");
    lab_sql_is(lab, &one, "show work_mem", "5MB");
    lab_sql_is(lab, &one, "select count(*) from pg_hba_file_rules where user_name = '{x}'", "1");
    char *sql = mem_printf("select current_setting('config_file') = '%s/etc/postgresql.conf' and "
                           "current_setting('data_directory') = '%s/one'",
                           lab->dir, lab->dir);
    lab_sql_is(lab, &one, sql, "t");
    free(sql);
    struct message *word = lab_ok(lab, &one, "inspect", "");
    char *dir = mem_printf("%s/etc", lab->dir);
    assert_string_equal(message_text(word, "config_dir", ""), dir);
    free(dir);
    message_free(word);
    assert_false(lab_has(lab, &one, "postgresql.conf"));
    message_free(lab_ok(lab, &one, "read", "\"name\":\"pg_hba.conf\""));
    lab_do(lab, &one, "stop", "\"mode\":\"fast\"");
}

static void
tells_a_copy_what_it_needs(void **state)
{
    struct lab *lab = *state;
    tmpdir_do(lab->dir,
              "mkdir $DIR/etc/conf.d && cd $DIR/etc && echo \"include_dir 'conf.d'\" "
              ">>postgresql.conf && printf 'ssl = on\\nssl_cert_file = /a.crt\\n"
              "ssl_key_file = /a.key\\nexternal_pid_file = /x\\nlog_directory = /log\\n"
              "primary_conninfo = bad\\nmax_locks_per_transaction = 77\\n' >conf.d/a.conf");
    struct message *told = lab_ok(lab, &one, "configuration", "");
    const char *config = message_text(told, "config", "");
    static const char *const left_out[] = {"data_directory",   "hba_file",      "external_pid_file",
                                           "primary_conninfo", "log_directory", "include",
                                           "work_mem",         "\nport"};
    assert_non_null(strstr(config, "max_locks_per_transaction = '77'\n"));
    for (size_t i = 0; i < sizeof left_out / sizeof *left_out; i++) {
        if (strstr(config, left_out[i]))
            fail_msg("%s in %s", left_out[i], config);
    }
    assert_non_null(strstr(message_text(told, "hba", ""), "local all x reject\n"));
    const struct message *tls = message_object(told, "tls");
    assert_string_equal(message_text(tls, "cert", ""), "/a.crt");
    assert_string_equal(message_text(tls, "key", ""), "/a.key");
    assert_null(message_text(tls, "ca", NULL));
    message_free(told);
    tmpdir_do(lab->dir, "rm -r $DIR/etc/conf.d && sed -i /^include_dir/d $DIR/etc/postgresql.conf");
}

/* A directory that somebody has copied, note and all, does not use the original's files. */
static void
is_not_that_of_a_copy(void **state)
{
    struct lab *lab = *state;
    const char *note = "$DIR/one/moonrise.files";
    char *spoil = mem_printf("cp %s $DIR/note && sed -i 's|/one|/two|' %s", note, note);
    tmpdir_do(lab->dir, spoil);
    lab_refused(lab, &one, "start", "\"listen\":\"\"", ERR_REFUSED);
    lab_refused(lab, &one, "configuration", "", ERR_REFUSED);
    free(spoil);
    tmpdir_do(lab->dir, "grep -v hba_file $DIR/note >$DIR/one/moonrise.files");
    lab_refused(lab, &one, "start", "\"listen\":\"\"", ERR_FORMAT);
    tmpdir_do(lab->dir, "mv $DIR/note $DIR/one/moonrise.files");
    tmpdir_do(lab->dir, "mv $DIR/etc/postgresql.conf $DIR/etc/moved");
    lab_refused(lab, &one, "try", "", ERR_CHILD);
    tmpdir_do(lab->dir, "mv $DIR/etc/moved $DIR/etc/postgresql.conf");
    lab_do(lab, &one, "try", "");
}

static void
is_given_back(void **state)
{
    struct lab *lab = *state;
    /* Somebody has written behind moonrise's line, which then came once more. */
    tmpdir_do(lab->dir, "cd $DIR/etc && tail -n 1 postgresql.conf >line && echo 'jit = off' "
                        "| tee -a $DIR/before/postgresql.conf >>postgresql.conf && "
                        "cat line >>postgresql.conf && rm line");
    lab_do(lab, &one, "disown", "\"adoption\":\"a1\",\"epoch\":999999");
    tmpdir_do(lab->dir, "diff -r $DIR/before $DIR/etc");
    assert_false(lab_has(lab, &one, "moonrise.files"));
    assert_false(lab_has(lab, &one, "moonrise.conf"));
}

int
main(int argc, char **argv)
{
    (void)argc;
    lab_user(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_started_with_it),
        cmocka_unit_test(tells_a_copy_what_it_needs),
        cmocka_unit_test(is_not_that_of_a_copy),
        cmocka_unit_test(is_given_back),
    };
    return cmocka_run_group_tests_name("agent_layout", tests, setup_apart, lab_teardown);
}
