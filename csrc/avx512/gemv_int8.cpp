#include <immintrin.h>

#include "../internal.h"

int32_t ling_dot_i8_avx512vnni(const int8_t* a, const int8_t* b, int64_t k) {
  // vpdpbusd wants one unsigned side: |a| and b with a's sign. -128 is excluded by the interface.
  __m512i acc = _mm512_setzero_si512();
  const __m512i zero = _mm512_setzero_si512();
  for (int64_t i = 0; i < k; i += 64) {
    const __mmask64 m = k - i >= 64 ? ~__mmask64(0) : (__mmask64(1) << (k - i)) - 1;
    __m512i x = _mm512_maskz_loadu_epi8(m, a + i);
    __m512i y = _mm512_maskz_loadu_epi8(m, b + i);
    y = _mm512_mask_sub_epi8(y, _mm512_movepi8_mask(x), zero, y);
    acc = _mm512_dpbusd_epi32(acc, _mm512_abs_epi8(x), y);
  }
  return _mm512_reduce_add_epi32(acc);
}
