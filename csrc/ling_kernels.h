// The whole C interface. Every function returns 0 or a status; ling_last_error() has the text.
#ifndef LING_KERNELS_H
#define LING_KERNELS_H
#include <stdint.h>

#define LING_ABI_VERSION 1
#define LING_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum { LING_OK = 0, LING_BAD_ARGUMENT = 1, LING_BAD_ISA = 2 };

LING_API int ling_abi_version(void);
// The level in use: "generic", "avx2" or "avx512vnni". LING_ISA caps it; an unknown word is an error.
LING_API int ling_isa(const char** name);
LING_API int ling_set_num_threads(int n);
LING_API const char* ling_last_error(void);

// y[t, n] = sum_k x[t, k] * w[n, k] in exact integers, times x_scale[t] * w_scale[n].
// x int8 [T, K], w int8 [N, K], scales float32, y float32 [T, N]; all contiguous.
// Values are -127..127 and K at most 131072, so that no sum leaves int32.
LING_API int ling_gemv_i8_i8(const int8_t* x, const float* x_scale, const int8_t* w,
                             const float* w_scale, float* y, int64_t T, int64_t N, int64_t K);

#ifdef __cplusplus
}
#endif
#endif
