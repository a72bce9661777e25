// Shared by the C++ sources; nothing here is part of the C interface.
#ifndef LING_INTERNAL_H
#define LING_INTERNAL_H
#include <stdint.h>

// Dot product of two int8 rows; every ISA gives the same integer.
using ling_dot_i8 = int32_t (*)(const int8_t* a, const int8_t* b, int64_t k);

int32_t ling_dot_i8_generic(const int8_t* a, const int8_t* b, int64_t k);
int32_t ling_dot_i8_avx2(const int8_t* a, const int8_t* b, int64_t k);
int32_t ling_dot_i8_avx512vnni(const int8_t* a, const int8_t* b, int64_t k);

int ling_fail(int status, const char* text);
// Calls body(context, i) for i in [0, n), split over the threads.
void ling_parallel_for(int64_t n, void (*body)(void*, int64_t), void* context);
#endif
