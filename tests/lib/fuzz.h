/*
 * What fuzz drivers share. A driver, tests/fuzz/X.c, has one function that takes any bytes and must come
 * back; with -DLIBFUZZER and clang -fsanitize=fuzzer it is a program of its own. The unit fuzz_parsers
 * feeds all of them mutations of good inputs, the same ones in each run.
 */
#ifndef MOONRISE_TESTS_FUZZ_H
#define MOONRISE_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#ifdef LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
#define FUZZ_DRIVER(fn)                                                                            \
    int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)                                   \
    {                                                                                              \
        fn(bytes, len);                                                                            \
        return 0;                                                                                  \
    }
#else
#define FUZZ_DRIVER(fn) struct fuzz_driver_of_##fn
#endif

#endif
