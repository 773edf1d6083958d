#include "moonrise/conn/certificate.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX (1u << 20)

/* A key that wants a passphrase gets none: nobody is there to type it when a server starts. */
static int
no_passphrase(char *buf, int size, int writing, void *arg)
{
    (void)buf, (void)size, (void)writing;
    *(bool *)arg = true;
    return -1;
}

static int
read_file(struct str *text, const char *path, struct err *e)
{
    return io_read_file(text, path, FILE_BYTES_MAX, e);
}

/* All certificates of a file, in their order. */
static int
read_certificates(STACK_OF(X509) * *out, const char *path, struct err *e)
{
    struct str text = STR_INIT;
    X509 *one;
    *out = NULL;
    int rc = read_file(&text, path, e);
    if (rc < 0) {
        str_free(&text);
        return rc;
    }
    BIO *bio = BIO_new_mem_buf(text.data, (int)text.len);
    *out = sk_X509_new_null();
    must(bio && *out);
    while ((one = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL)
        must(sk_X509_push(*out, one));
    bool whole =
        sk_X509_num(*out) > 0 && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    ERR_clear_error();
    BIO_free(bio);
    str_free(&text);
    if (whole)
        return 0;
    sk_X509_pop_free(*out, X509_free);
    *out = NULL;
    return err_set(e, ERR_FORMAT, "%s is no certificate in PEM", path);
}

/* What PostgreSQL 15 asks for (be-secure-common.c). */
static int
check_key_file(const char *path, struct err *e)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return err_sys(e, errno, "%s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_FORMAT, "%s is no regular file", path);
    if (st.st_uid != geteuid() && st.st_uid != 0) {
        err_set(e, ERR_PERMISSION, "%s belongs to another user", path);
        return err_hint(e, "it must belong to the user of the servers, or to root");
    }
    if ((st.st_uid == geteuid() && (st.st_mode & 0077)) || (st.st_mode & 0037)) {
        err_set(e, ERR_PERMISSION, "%s can be read or changed by others (mode %04o)", path,
                (unsigned)st.st_mode & 07777);
        return err_hint(e, "chmod 0600, or 0640 where it is root's");
    }
    return 0;
}

static int
read_key(EVP_PKEY **out, const char *path, struct err *e)
{
    struct str text = STR_INIT;
    bool locked = false;
    *out = NULL;
    int rc = check_key_file(path, e);
    if (rc == 0)
        rc = read_file(&text, path, e);
    if (rc < 0) {
        str_free(&text);
        return rc;
    }
    BIO *bio = BIO_new_mem_buf(text.data, (int)text.len);
    must(bio);
    *out = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &locked);
    ERR_clear_error();
    BIO_free(bio);
    OPENSSL_cleanse(text.data, text.len);
    str_free(&text);
    if (*out)
        return 0;
    if (!locked)
        return err_set(e, ERR_FORMAT, "%s is no private key in PEM", path);
    err_set(e, ERR_REFUSED, "%s is protected by a passphrase", path);
    return err_hint(e, "a server that starts by itself can ask nobody: name a key without one");
}

static int
check_key(X509 *cert, const struct certificate_files *f, struct err *e)
{
    EVP_PKEY *key;
    int rc = read_key(&key, f->key, e);
    if (rc < 0)
        return rc;
    if (X509_check_private_key(cert, key) != 1)
        rc = err_set(e, ERR_REFUSED, "%s is not the key of the certificate %s", f->key, f->cert);
    ERR_clear_error();
    EVP_PKEY_free(key);
    return rc;
}

static int
check_time(int64_t *left_s, X509 *cert, const char *path, struct err *e)
{
    int days = 0, seconds = 0;
    if (X509_cmp_current_time(X509_get0_notBefore(cert)) >= 0)
        return err_set(e, ERR_REFUSED, "the certificate %s is not valid yet", path);
    if (X509_cmp_current_time(X509_get0_notAfter(cert)) <= 0)
        return err_set(e, ERR_REFUSED, "the certificate %s has expired", path);
    must(ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(cert)));
    *left_s = days * (int64_t)86400 + seconds;
    return 0;
}

/* As libpq does it when the server shows its certificate. */
static int
check_chain(STACK_OF(X509) * chain, const struct certificate_files *f, struct err *e)
{
    STACK_OF(X509) * roots;
    int rc = read_certificates(&roots, f->ca, e);
    if (rc < 0)
        return rc;
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    must(store && ctx);
    for (int i = 0; i < sk_X509_num(roots); i++)
        must(X509_STORE_add_cert(store, sk_X509_value(roots, i)));
    must(X509_STORE_CTX_init(ctx, store, sk_X509_value(chain, 0), chain));
    must(X509_STORE_CTX_set_default(ctx, "ssl_server"));
    if (X509_verify_cert(ctx) != 1) {
        err_set(e, ERR_REFUSED, "the certificate %s cannot be verified with %s: %s", f->cert, f->ca,
                X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx)));
        rc = err_hint(e, "tls.ca is the certificate of the authority that has signed tls.cert");
    }
    ERR_clear_error();
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    sk_X509_pop_free(roots, X509_free);
    return rc;
}

int
certificate_check(int64_t *left_s, const struct certificate_files *files, struct err *e)
{
    STACK_OF(X509) * chain;
    *left_s = 0;
    int rc = read_certificates(&chain, files->cert, e);
    if (rc < 0)
        return rc;
    X509 *cert = sk_X509_value(chain, 0);
    rc = check_key(cert, files, e);
    if (rc == 0)
        rc = check_time(left_s, cert, files->cert, e);
    if (rc == 0 && files->ca)
        rc = check_chain(chain, files, e);
    sk_X509_pop_free(chain, X509_free);
    return rc;
}

int
certificate_names(const char *cert, const char *name, struct err *e)
{
    STACK_OF(X509) * chain;
    struct in6_addr address;
    int rc = read_certificates(&chain, cert, e);
    if (rc < 0)
        return rc;
    bool number =
        inet_pton(AF_INET, name, &address) == 1 || inet_pton(AF_INET6, name, &address) == 1;
    X509 *own = sk_X509_value(chain, 0);
    int fits = number ? X509_check_ip_asc(own, name, 0) : X509_check_host(own, name, 0, 0, NULL);
    sk_X509_pop_free(chain, X509_free);
    ERR_clear_error();
    if (fits == 1)
        return 0;
    err_set(e, ERR_REFUSED, "the certificate %s is not made out to %s", cert, name);
    return err_hint(e, "its subjectAltName must have %s:%s, or say verify = \"ca\" in tls",
                    number ? "IP" : "DNS", name);
}
