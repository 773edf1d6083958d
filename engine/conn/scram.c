#include "moonrise/conn/scram.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <sys/random.h>

#define KEY_BYTES  32
#define SALT_BYTES 16

struct key {
    unsigned char bytes[KEY_BYTES];
};

static struct key
keyed(const struct key *key, const char *text)
{
    struct key out;
    must(HMAC(EVP_sha256(), key->bytes, KEY_BYTES, (const unsigned char *)text, strlen(text),
              out.bytes, NULL));
    return out;
}

static void
append_base64(struct str *out, const unsigned char *bytes, int len)
{
    unsigned char text[4 * ((KEY_BYTES + 2) / 3) + 1];
    int n = EVP_EncodeBlock(text, bytes, len);
    str_append(out, (const char *)text, (size_t)n);
}

char *
scram_secret(const char *password)
{
    unsigned char salt[SALT_BYTES];
    struct key salted, stored;
    must(getrandom(salt, sizeof salt, 0) == (ssize_t)sizeof salt);
    must(PKCS5_PBKDF2_HMAC(password, (int)strlen(password), salt, SALT_BYTES, 1, EVP_sha256(),
                           KEY_BYTES, salted.bytes));
    struct key client = keyed(&salted, "Client Key"), server = keyed(&salted, "Server Key");
    must(EVP_Digest(client.bytes, KEY_BYTES, stored.bytes, NULL, EVP_sha256(), NULL));
    OPENSSL_cleanse(&salted, sizeof salted);
    OPENSSL_cleanse(&client, sizeof client);
    struct str out = STR_INIT;
    str_puts(&out, "SCRAM-SHA-256$1:");
    append_base64(&out, salt, SALT_BYTES);
    str_puts(&out, "$");
    append_base64(&out, stored.bytes, KEY_BYTES);
    str_puts(&out, ":");
    append_base64(&out, server.bytes, KEY_BYTES);
    return str_take(&out);
}
