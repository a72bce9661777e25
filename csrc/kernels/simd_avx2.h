// Vectors of 16 lanes on AVX2 and FMA: two registers each.

struct f32 {
  __m256 a, b;
};
struct i32 {
  __m256i a, b;
};
struct u8 {
  __m256i a, b;
};  // 64 bytes: 16 lanes × 4

// Rows from which codes are unpacked once for all of them: beyond, bytes are read faster.
constexpr int kRowsOfCodes = 36;

static inline f32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void store(float* p, f32 x) {
  _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b);
}
static inline f32 set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline f32 zero() { return set(0); }
static inline f32 add(f32 x, f32 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline f32 sub(f32 x, f32 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline f32 mul(f32 x, f32 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline f32 div(f32 x, f32 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
static inline f32 root(f32 x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
static inline f32 fma(f32 x, f32 y, f32 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline f32 absolute(f32 x) {
  const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(x.a, m), _mm256_and_ps(x.b, m)};
}
// The power of two at or below a value that is not negative: its bits without the mantissa.
static inline f32 power_below(f32 x) {
  const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000));
  return {_mm256_and_ps(x.a, m), _mm256_and_ps(x.b, m)};
}
// Magnitudes (of x, not negative) with the signs of another vector.
static inline f32 with_sign(f32 x, f32 sign) {
  const __m256 m = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(x.a, _mm256_and_ps(sign.a, m)), _mm256_or_ps(x.b, _mm256_and_ps(sign.b, m))};
}
static inline f32 maximum(f32 x, f32 y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
static inline f32 minimum(f32 x, f32 y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
static inline i32 round_i32(f32 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
static inline f32 to_f32(i32 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
static inline i32 add_i32(i32 x, i32 y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
static inline i32 set_i32(int v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
static inline i32 zero_i32() { return set_i32(0); }
static inline f32 power2(i32 n) {
  const i32 e = add_i32(n, set_i32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(e.a, 23)),
          _mm256_castsi256_ps(_mm256_slli_epi32(e.b, 23))};
}
template <int n>
static inline i32 shift_left(i32 x) {
  return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
}
static inline void store_i32(int32_t* p, i32 x) {
  _mm256_storeu_si256((__m256i*)p, x.a), _mm256_storeu_si256((__m256i*)(p + 8), x.b);
}
static inline void store_i8(int8_t* p, i32 x) {
  int32_t t[16];
  store_i32(t, x);
  for (int i = 0; i < 16; ++i) p[i] = (int8_t)t[i];
}
static inline f32 load_i8(const int8_t* p) {
  const __m128i v = _mm_loadu_si128((const __m128i*)p);
  return to_f32({_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))});
}
static inline __m256 half_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
static inline f32 load_bf16(const uint16_t* p) { return {half_bf16(p), half_bf16(p + 8)}; }
static inline void store_bf16(uint16_t* p, f32 x) {
  const auto rounded = [](__m256 part) {
    const __m256i b = _mm256_castps_si256(part);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(b, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(part, part, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), _mm256_set1_epi32(0x7fc0), nan);
  };
  const __m256i pairs = _mm256_packus_epi32(rounded(x.a), rounded(x.b));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(pairs, 0xd8));
}

static inline u8 load_u8(const uint8_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
static inline void store_u8(uint8_t* p, u8 x) {
  _mm256_storeu_si256((__m256i*)p, x.a), _mm256_storeu_si256((__m256i*)(p + 32), x.b);
}
// Into the second level: it has more misses under way at a time than the first.
// Inlined at once: GCC may drop the calls of a function that only prefetches. And not as assembly
// that reads memory, before which GCC stores every sum of a loop, in each round.
__attribute__((always_inline)) static inline void prefetch(const void* p) {
  __builtin_prefetch(p, 0, 2);
}

struct Levels {
  __m256i table;
};
static inline Levels load_levels(const uint8_t* levels) {
  return {_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)levels))};
}
static inline u8 low_codes(const Levels& t, u8 v) {
  const __m256i m = _mm256_set1_epi8(15);
  return {_mm256_shuffle_epi8(t.table, _mm256_and_si256(v.a, m)),
          _mm256_shuffle_epi8(t.table, _mm256_and_si256(v.b, m))};
}
static inline u8 high_codes(const Levels& t, u8 v) {
  return low_codes(t, {_mm256_srli_epi16(v.a, 4), _mm256_srli_epi16(v.b, 4)});
}
// Of a plane of lower bits and the one of third bits (LING_I3) the codes of eight columns, number i
// of four, in the halves of bytes; the fourth bit of each is left over from others.
template <int i>
static inline __m256i join_planes_half(__m256i low, __m256i high) {
  const __m256i m = _mm256_set1_epi8(0x33);
  if constexpr (i % 2) low = _mm256_srli_epi16(low, 2);
  high = i < 2 ? _mm256_slli_epi16(high, 2 - i) : _mm256_srli_epi16(high, i - 2);
  return _mm256_or_si256(_mm256_and_si256(low, m), _mm256_andnot_si256(m, high));
}
template <int i>
static inline u8 join_planes(u8 low, u8 high) {
  return {join_planes_half<i>(low.a, high.a), join_planes_half<i>(low.b, high.b)};
}

// maddubs saturates at 16 bits; |w - 128| <= 127 times x's sign cannot reach it.
static inline i32 dot_begin(int32_t) { return zero_i32(); }
static inline __m256i dot_half(__m256i acc, __m256i w, __m256i x) {
  const __m256i s = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
  const __m256i p = _mm256_maddubs_epi16(_mm256_abs_epi8(s), _mm256_sign_epi8(x, s));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
}
static inline i32 dot4(i32 acc, u8 w, int32_t x4) {
  const __m256i x = _mm256_set1_epi32(x4);
  return {dot_half(acc.a, w.a, x), dot_half(acc.b, w.b, x)};
}

struct b16 {
  __m256i a, b;
};  // 16 lanes × 2 bfloat16
static inline b16 load_pairs(const uint16_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 16))};
}
static inline void store_pairs(uint16_t* p, b16 x) {
  _mm256_storeu_si256((__m256i*)p, x.a), _mm256_storeu_si256((__m256i*)(p + 16), x.b);
}

// E4M3 of 4 columns (LING_FP8) to bfloat16 pairs of the first and the last two. A value above 2^-6
// has the bits of its low half as they are and a high byte that depends on its high half alone;
// others are one in some thousands of a trained matrix.
static inline void widen_fp8_half(__m256i v, __m256i* first, __m256i* last) {
  const __m256i nibble = _mm256_set1_epi8(15), sign = _mm256_set1_epi8((char)0x80);
  const auto table = [](const uint8_t* t) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)t));
  };
  const __m256i next = _mm256_add_epi8(v, _mm256_set1_epi8(1));
  const __m256i odd =
      _mm256_cmpeq_epi8(_mm256_and_si256(next, _mm256_set1_epi8(0x70)), _mm256_setzero_si256());
  __m256i low = _mm256_andnot_si256(nibble, _mm256_slli_epi16(v, 4));
  __m256i high = _mm256_and_si256(nibble, _mm256_srli_epi16(v, 4));
  high = _mm256_shuffle_epi8(table(fp8_high), high);
  if (__builtin_expect(!_mm256_testz_si256(odd, odd), 0)) {
    const __m256i which = _mm256_and_si256(next, nibble);
    low = _mm256_blendv_epi8(low, _mm256_shuffle_epi8(table(fp8_odd_low), which), odd);
    high = _mm256_blendv_epi8(high, _mm256_shuffle_epi8(table(fp8_odd_high), which), odd);
    high = _mm256_or_si256(high, _mm256_and_si256(v, sign));
  }
  *first = _mm256_unpacklo_epi8(low, high);
  *last = _mm256_unpackhi_epi8(low, high);
}
static inline void widen_fp8(u8 v, b16* first, b16* last) {
  widen_fp8_half(v.a, &first->a, &last->a);
  widen_fp8_half(v.b, &first->b, &last->b);
}

static inline __m256 dot2_half(__m256 acc, __m256i v, __m256 x0, __m256 x1) {
  acc = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(v, 16)), x0, acc);
  const __m256i high = _mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000));
  return _mm256_fmadd_ps(_mm256_castsi256_ps(high), x1, acc);
}
static inline f32 dot2(f32 acc, b16 w, uint32_t x2) {
  const __m256 x0 = _mm256_castsi256_ps(_mm256_set1_epi32((int)(x2 << 16)));
  const __m256 x1 = _mm256_castsi256_ps(_mm256_set1_epi32((int)(x2 & 0xffff0000u)));
  return {dot2_half(acc.a, w.a, x0, x1), dot2_half(acc.b, w.b, x0, x1)};
}

static inline f32 first_lanes(int limit, f32 x, f32 y) {
  const __m256i n = _mm256_set1_epi32(limit), i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i j = _mm256_add_epi32(i, _mm256_set1_epi32(8));
  return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(n, i))),
          _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(_mm256_cmpgt_epi32(n, j)))};
}
static inline float reduce_add(f32 x) {
  float t[16];
  store(t, x);
  for (int n = 8; n; n /= 2)
    for (int i = 0; i < n; ++i) t[i] += t[i + n];
  return t[0];
}
static inline float reduce_max(f32 x) {
  float t[16];
  store(t, x);
  for (int i = 1; i < 16; ++i) t[0] = t[i] > t[0] ? t[i] : t[0];
  return t[0];
}

static inline f32 choose_greater(f32 x, f32 y, f32 p, f32 q) {
  return {_mm256_blendv_ps(q.a, p.a, _mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)),
          _mm256_blendv_ps(q.b, p.b, _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))};
}

#include "nearest.h"
static inline __m256i nearest_half(const Nearest& t, __m256i x) {
  const __m256i bin = _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15));
  const auto look = [&](__m128i table) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), bin);
  };
  const __m256i is_mid = _mm256_cmpgt_epi8(x, look(t.below_mid));
  const __m256i is_high = _mm256_cmpgt_epi8(x, look(t.below_high));
  const __m256i q = _mm256_blendv_epi8(look(t.low), look(t.mid), is_mid);
  return _mm256_blendv_epi8(q, look(t.high), is_high);
}
static inline u8 nearest_level(const Nearest& t, u8 x) {
  return {nearest_half(t, x.a), nearest_half(t, x.b)};
}
static inline u8 magnitudes(u8 x) { return {_mm256_abs_epi8(x.a), _mm256_abs_epi8(x.b)}; }
static inline u8 flip_sign(u8 x) {
  const __m256i m = _mm256_set1_epi8((char)0x80);
  return {_mm256_xor_si256(x.a, m), _mm256_xor_si256(x.b, m)};
}
static inline u8 join_codes(u8 x, u8 y) {
  return {_mm256_or_si256(x.a, _mm256_slli_epi16(y.a, 4)),
          _mm256_or_si256(x.b, _mm256_slli_epi16(y.b, 4))};
}
// Both within 127, so that maddubs does not saturate.
static inline i32 dot_bytes(i32 acc, u8 x, u8 y) {
  const __m256i one = _mm256_set1_epi16(1);
  return add_i32(acc, {_mm256_madd_epi16(_mm256_maddubs_epi16(x.a, y.a), one),
                       _mm256_madd_epi16(_mm256_maddubs_epi16(x.b, y.b), one)});
}
static inline void transpose4(const uint8_t* p, int64_t stride, u8* out) {
  const auto rows = [&](int64_t r) {
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)(p + r * stride))),
        _mm_loadu_si128((const __m128i*)(p + (r + 4) * stride)), 1);
  };
  for (int h = 0; h < 2; ++h) {
    const __m256i r0 = rows(8 * h), r1 = rows(8 * h + 1), r2 = rows(8 * h + 2),
                  r3 = rows(8 * h + 3);
    const __m256i a = _mm256_unpacklo_epi32(r0, r1), b = _mm256_unpackhi_epi32(r0, r1);
    const __m256i c = _mm256_unpacklo_epi32(r2, r3), d = _mm256_unpackhi_epi32(r2, r3);
    const __m256i transposed[] = {_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c),
                                  _mm256_unpacklo_epi64(b, d), _mm256_unpackhi_epi64(b, d)};
    for (int i = 0; i < 4; ++i) (h ? out[i].b : out[i].a) = transposed[i];
  }
}
// The other way: four vectors, next to each other, to 16 rows of 4 bytes of each.
static inline void turn_rows(const uint8_t* p, uint8_t* out, int64_t stride) {
  const auto half = [&](int64_t i) { return _mm256_loadu_si256((const __m256i*)(p + 32 * i)); };
  for (int64_t h = 0; h < 2; ++h) {
    const __m256i r0 = half(h), r1 = half(h + 2), r2 = half(h + 4), r3 = half(h + 6);
    const __m256i a = _mm256_unpacklo_epi32(r0, r1), b = _mm256_unpackhi_epi32(r0, r1);
    const __m256i c = _mm256_unpacklo_epi32(r2, r3), d = _mm256_unpackhi_epi32(r2, r3);
    const __m256i turned[] = {_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c),
                              _mm256_unpacklo_epi64(b, d), _mm256_unpackhi_epi64(b, d)};
    for (int64_t i = 0; i < 4; ++i) {
      uint8_t* row = out + (8 * h + i) * stride;
      _mm_storeu_si128((__m128i*)row, _mm256_castsi256_si128(turned[i]));
      _mm_storeu_si128((__m128i*)(row + 4 * stride), _mm256_extracti128_si256(turned[i], 1));
    }
  }
}
// 16 words, looked up by 32 bytes below 16.
struct Words16 {
  __m256i low, high;  // their bytes, twice
};
static inline Words16 load_words16(const uint16_t* t) {
  const __m256i v = _mm256_loadu_si256((const __m256i*)t);
  const auto bytes = [](__m256i words) {  // packing works within halves of a register
    return _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0x88);
  };
  return {bytes(_mm256_and_si256(v, _mm256_set1_epi16(255))), bytes(_mm256_srli_epi16(v, 8))};
}
static inline void look_up16(Words16 t, const uint8_t* codes, uint16_t* out) {
  const __m256i at = _mm256_loadu_si256((const __m256i*)codes);
  const __m256i low = _mm256_shuffle_epi8(t.low, at), high = _mm256_shuffle_epi8(t.high, at);
  const __m256i a = _mm256_unpacklo_epi8(low, high), b = _mm256_unpackhi_epi8(low, high);
  _mm256_storeu_si256((__m256i*)out, _mm256_permute2x128_si256(a, b, 0x20));
  _mm256_storeu_si256((__m256i*)(out + 16), _mm256_permute2x128_si256(a, b, 0x31));
}
struct Codes {
  int16_t below[15];
};
static inline Codes make_codes(const int8_t* levels, int count) {
  Codes r;
  for (int i = 0; i < 15; ++i)
    r.below[i] =
        i < count - 1 ? (int16_t)((levels[i] + levels[i + 1]) * (kCodeUnit / 2) - 1) : INT16_MAX;
  return r;
}
static inline void store_codes(uint8_t* p, const Codes& t, f32 x, f32 y) {
  const i32 a = round_i32(mul(x, set(kCodeUnit))), b = round_i32(mul(y, set(kCodeUnit)));
  // Packing works within halves of a register: values 0-3, 8-11, 4-7, 12-15, and so on.
  const __m256i v = _mm256_packs_epi32(a.a, a.b), w = _mm256_packs_epi32(b.a, b.b);
  __m256i c = _mm256_setzero_si256(), d = c;
  for (int i = 0; i < 15; ++i) {
    const __m256i border = _mm256_set1_epi16(t.below[i]);
    c = _mm256_sub_epi16(c, _mm256_cmpgt_epi16(v, border));
    d = _mm256_sub_epi16(d, _mm256_cmpgt_epi16(w, border));
  }
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i codes = _mm256_packus_epi16(c, d);
  _mm256_storeu_si256((__m256i*)p, _mm256_permutevar8x32_epi32(codes, order));
}

// 256 floats, looked up by 64 bytes.
struct Floats256 {
  const float* p;
};
static inline Floats256 make_floats256(const float* t) { return {t}; }
static inline __m256 look_up_half(const float* t, const uint8_t* codes) {
  const __m128i c = _mm_loadl_epi64((const __m128i*)codes);
  return _mm256_i32gather_ps(t, _mm256_cvtepu8_epi32(c), 4);
}
static inline void look_up(const Floats256& t, const uint8_t* codes, f32* out) {
  for (int i = 0; i < 4; ++i)
    out[i] = {look_up_half(t.p, codes + 16 * i), look_up_half(t.p, codes + 16 * i + 8)};
}
// One more where x is greater.
static inline void raise_codes(uint8_t* codes, f32 x, f32 limit) {
  const __m256i a = _mm256_castps_si256(_mm256_cmp_ps(x.a, limit.a, _CMP_GT_OQ));
  const __m256i b = _mm256_castps_si256(_mm256_cmp_ps(x.b, limit.b, _CMP_GT_OQ));
  // Packing works within halves of a register: lanes 0-3, 8-11, 4-7, 12-15.
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
  const __m128i more =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128((__m128i*)codes, _mm_sub_epi8(_mm_loadu_si128((const __m128i*)codes), more));
}
