// Vectors of 16 lanes on AVX-512 (F, BW, VL, DQ, VNNI; BF16 where the level has it).

typedef __m512 f32;
typedef __m512i i32;
typedef __m512i u8;  // 64 bytes: 16 lanes × 4

static inline f32 load(const float* p) { return _mm512_loadu_ps(p); }
static inline void store(float* p, f32 x) { _mm512_storeu_ps(p, x); }
static inline f32 set(float x) { return _mm512_set1_ps(x); }
static inline f32 zero() { return _mm512_setzero_ps(); }
static inline f32 add(f32 a, f32 b) { return _mm512_add_ps(a, b); }
static inline f32 sub(f32 a, f32 b) { return _mm512_sub_ps(a, b); }
static inline f32 mul(f32 a, f32 b) { return _mm512_mul_ps(a, b); }
static inline f32 div(f32 a, f32 b) { return _mm512_div_ps(a, b); }
static inline f32 fma(f32 a, f32 b, f32 c) { return _mm512_fmadd_ps(a, b, c); }
static inline f32 absolute(f32 a) { return _mm512_abs_ps(a); }
// Where either is NaN: the second.
static inline f32 maximum(f32 a, f32 b) { return _mm512_max_ps(a, b); }
static inline f32 minimum(f32 a, f32 b) { return _mm512_min_ps(a, b); }
static inline i32 round_i32(f32 a) { return _mm512_cvtps_epi32(a); }
static inline f32 to_f32(i32 a) { return _mm512_cvtepi32_ps(a); }
// a · 2^n for n in -126 .. 127, as bits.
static inline f32 power2(i32 n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
static inline void store_i8(int8_t* p, i32 a) {
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a));
}
static inline f32 load_i8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
static inline i32 add_i32(i32 a, i32 b) { return _mm512_add_epi32(a, b); }
template <int n>
static inline i32 shift_left(i32 a) { return _mm512_slli_epi32(a, n); }
static inline i32 zero_i32() { return _mm512_setzero_si512(); }
static inline void store_i32(int32_t* p, i32 a) { _mm512_storeu_si512(p, a); }
static inline f32 load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
// Round to nearest even; NaN stays NaN.
static inline void store_bf16(uint16_t* p, f32 x) {
  const __m512i b = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_srli_epi32(
      _mm512_add_epi32(_mm512_add_epi32(b, _mm512_set1_epi32(0x7fff)), odd), 16);
  r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(r));
}

static inline u8 load_u8(const uint8_t* p) { return _mm512_loadu_si512(p); }
static inline void store_u8(uint8_t* p, u8 a) { _mm512_storeu_si512(p, a); }
// Into the second level: it has more misses under way at a time than the first.
// As assembly: GCC may drop the calls of a function that only prefetches.
static inline void prefetch(const void* p) { asm volatile("prefetcht1 %0" ::"m"(*(const char*)p)); }

// Codes in the low and high halves of 64 bytes to their levels (+ 128).
struct Levels {
  __m512i table;
};
static inline Levels load_levels(const uint8_t* levels) {
  return {_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)levels))};
}
static inline u8 low_codes(const Levels& t, u8 v) {
  return _mm512_shuffle_epi8(t.table, _mm512_and_si512(v, _mm512_set1_epi8(15)));
}
static inline u8 high_codes(const Levels& t, u8 v) {
  return _mm512_shuffle_epi8(
      t.table, _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15)));
}

// Sums of (w - 128) · x over 4 columns: the unsigned product, with the sum's share taken off first.
static inline i32 dot_begin(int32_t sum_x) { return _mm512_set1_epi32(-128 * sum_x); }
// As assembly: for the intrinsic GCC 12 copies every accumulator twice around the inner loop.
static inline i32 dot4(i32 acc, u8 w, int32_t x4) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(_mm512_set1_epi32(x4)));
  return acc;
}

typedef __m512i b16;  // 16 lanes × 2 bfloat16
static inline b16 load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
static inline void store_pairs(uint16_t* p, b16 x) { _mm512_storeu_si512(p, x); }

// E4M3 of 4 columns (LING_F8) to bfloat16 pairs of the first and the last two. A value above 2^-6 has
// the bits of its low half as they are and a high byte that depends on its high half alone; others are
// one in some thousands of a trained matrix.
static inline void widen_f8(u8 v, b16* first, b16* last) {
  const __m512i nibble = _mm512_set1_epi8(15), sign = _mm512_set1_epi8((char)0x80);
  const auto table = [](const uint8_t* t) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)t));
  };
  const __m512i next = _mm512_add_epi8(v, _mm512_set1_epi8(1));
  const __mmask64 odd = _mm512_testn_epi8_mask(next, _mm512_set1_epi8(0x70));
  __m512i low = _mm512_andnot_si512(nibble, _mm512_slli_epi16(v, 4));
  __m512i high = _mm512_and_si512(nibble, _mm512_srli_epi16(v, 4));
  high = _mm512_shuffle_epi8(table(f8_high), high);
  if (__builtin_expect(odd != 0, 0)) {
    const __m512i which = _mm512_and_si512(next, nibble);
    low = _mm512_mask_shuffle_epi8(low, odd, table(f8_odd_low), which);
    high = _mm512_mask_shuffle_epi8(high, odd, table(f8_odd_high), which);
    high = _mm512_ternarylogic_epi32(high, v, sign, 0xf8);  // high | (v & sign)
  }
  *first = _mm512_unpacklo_epi8(low, high);
  *last = _mm512_unpackhi_epi8(low, high);
}

// acc + w[2i] · x[0] + w[2i + 1] · x[1] on bfloat16 pairs.
static inline f32 dot2(f32 acc, b16 w, uint32_t x2) {
#ifdef __AVX512BF16__
  asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(w), "v"(_mm512_set1_epi32((int)x2)));
  return acc;
#else
  const __m512i high = _mm512_set1_epi32((int)0xffff0000);
  const f32 w0 = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
  const f32 w1 = _mm512_castsi512_ps(_mm512_and_si512(w, high));
  acc = fma(w0, _mm512_castsi512_ps(_mm512_set1_epi32((int)(x2 << 16))), acc);
  return fma(w1, _mm512_castsi512_ps(_mm512_set1_epi32((int)(x2 & 0xffff0000u))), acc);
#endif
}

// Lanes of `limit` positions on: a where lane < limit, else b.
static inline f32 first_lanes(int limit, f32 a, f32 b) {
  const __mmask16 m = limit >= 16 ? 0xffff : limit <= 0 ? 0 : (__mmask16)((1u << limit) - 1);
  return _mm512_mask_mov_ps(b, m, a);
}
static inline float reduce_add(f32 x) { return _mm512_reduce_add_ps(x); }
static inline float reduce_max(f32 x) { return _mm512_reduce_max_ps(x); }

// table[index] for 16 and 32 entries.
struct Table16 { __m512 t; };
struct Table32 { __m512 lo, hi; };
static inline Table16 load_table16(const float* p) { return {load(p)}; }
static inline Table32 load_table32(const float* p) { return {load(p), load(p + 16)}; }
static inline f32 look(const Table16& t, i32 i) { return _mm512_permutexvar_ps(i, t.t); }
static inline f32 look(const Table32& t, i32 i) { return _mm512_permutex2var_ps(t.lo, i, t.hi); }
// 1 where a >= b.
static inline i32 at_least(f32 a, f32 b) {
  return _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), 1);
}
static inline f32 choose_greater(f32 a, f32 b, f32 if_greater, f32 otherwise) {
  return _mm512_mask_mov_ps(otherwise, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), if_greater);
}
