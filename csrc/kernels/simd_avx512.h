// Vectors of 16 lanes on AVX-512 (F, BW, VL, DQ, VNNI; BF16 where the instruction set has it).

typedef __m512 f32;
typedef __m512i i32;
typedef __m512i u8;  // 64 bytes: 16 lanes × 4

// Rows from which codes are unpacked once for all of them: beyond, bytes are read faster.
constexpr int kRowsOfCodes = 128;

static inline f32 load(const float* p) { return _mm512_loadu_ps(p); }
static inline void store(float* p, f32 x) { _mm512_storeu_ps(p, x); }
static inline f32 set(float x) { return _mm512_set1_ps(x); }
static inline f32 zero() { return _mm512_setzero_ps(); }
static inline f32 add(f32 a, f32 b) { return _mm512_add_ps(a, b); }
static inline f32 sub(f32 a, f32 b) { return _mm512_sub_ps(a, b); }
static inline f32 mul(f32 a, f32 b) { return _mm512_mul_ps(a, b); }
static inline f32 div(f32 a, f32 b) { return _mm512_div_ps(a, b); }
static inline f32 root(f32 a) { return _mm512_sqrt_ps(a); }
static inline f32 fma(f32 a, f32 b, f32 c) { return _mm512_fmadd_ps(a, b, c); }
static inline f32 absolute(f32 a) { return _mm512_abs_ps(a); }
// The power of two at or below a value that is not negative: its bits without the mantissa.
static inline f32 power_below(f32 a) {
  return _mm512_and_ps(a, _mm512_castsi512_ps(_mm512_set1_epi32(0x7f800000)));
}
// Magnitudes (of a, not negative) with the signs of another vector.
static inline f32 with_sign(f32 a, f32 sign) {
  return _mm512_or_ps(a, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
}
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
static inline i32 shift_left(i32 a) {
  return _mm512_slli_epi32(a, n);
}
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
  __m512i r =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(b, _mm512_set1_epi32(0x7fff)), odd), 16);
  r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(r));
}

static inline u8 load_u8(const uint8_t* p) { return _mm512_loadu_si512(p); }
static inline void store_u8(uint8_t* p, u8 a) { _mm512_storeu_si512(p, a); }
// Into the second level: it has more misses under way at a time than the first.
// Inlined at once: GCC may drop the calls of a function that only prefetches. And not as assembly
// that reads memory, before which GCC stores every sum of a loop, in each round.
__attribute__((always_inline)) static inline void prefetch(const void* p) {
  __builtin_prefetch(p, 0, 2);
}

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
  return _mm512_shuffle_epi8(t.table,
                             _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15)));
}
// Of a plane of lower bits and the one of third bits (LING_I3) the codes of eight columns, number i
// of four, in the halves of bytes; the fourth bit of each is left over from others.
template <int i>
static inline u8 join_planes(u8 low, u8 high) {
  if constexpr (i % 2) low = _mm512_srli_epi16(low, 2);
  high = i < 2 ? _mm512_slli_epi16(high, 2 - i) : _mm512_srli_epi16(high, i - 2);
  // low where the mask has ones, else high
  return _mm512_ternarylogic_epi32(_mm512_set1_epi8(0x33), low, high, 0xca);
}

// Sums of (w - 128) · x over 4 columns: the unsigned product, which begins with -128 times the sum
// of x.
static inline i32 dot_begin(int32_t begin) { return _mm512_set1_epi32(begin); }
// As assembly: for the intrinsic GCC 12 copies every accumulator twice around the inner loop.
static inline i32 dot4(i32 acc, u8 w, int32_t x4) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(_mm512_set1_epi32(x4)));
  return acc;
}

typedef __m512i b16;  // 16 lanes × 2 bfloat16
static inline b16 load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
static inline void store_pairs(uint16_t* p, b16 x) { _mm512_storeu_si512(p, x); }

// E4M3 of 4 columns (LING_FP8) to bfloat16 pairs of the first and the last two. A value above 2^-6
// has the bits of its low half as they are and a high byte that depends on its high half alone;
// others are one in some thousands of a trained matrix.
static inline void widen_fp8(u8 v, b16* first, b16* last) {
  const __m512i nibble = _mm512_set1_epi8(15), sign = _mm512_set1_epi8((char)0x80);
  const auto table = [](const uint8_t* t) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)t));
  };
  const __m512i next = _mm512_add_epi8(v, _mm512_set1_epi8(1));
  const __mmask64 odd = _mm512_testn_epi8_mask(next, _mm512_set1_epi8(0x70));
  __m512i low = _mm512_andnot_si512(nibble, _mm512_slli_epi16(v, 4));
  __m512i high = _mm512_and_si512(nibble, _mm512_srli_epi16(v, 4));
  high = _mm512_shuffle_epi8(table(fp8_high), high);
  if (__builtin_expect(odd != 0, 0)) {
    const __m512i which = _mm512_and_si512(next, nibble);
    low = _mm512_mask_shuffle_epi8(low, odd, table(fp8_odd_low), which);
    high = _mm512_mask_shuffle_epi8(high, odd, table(fp8_odd_high), which);
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

static inline f32 choose_greater(f32 a, f32 b, f32 if_greater, f32 otherwise) {
  return _mm512_mask_mov_ps(otherwise, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), if_greater);
}

// What signed bytes are to be read as (`make_nearest` has the table): by bins that hold at most one
// change where bytes can be looked up in 64 entries, else at most two.
#ifdef __AVX512VBMI__
struct Nearest {
  __m512i low, high, border;
};
static inline Nearest make_nearest(const int8_t* q) {
  alignas(64) int8_t low[64], high[64], border[64];
  for (int i = 0; i < 64; ++i) {
    const int first = (int8_t)(4 * i);
    low[i] = q[first + 128], high[i] = q[first + 3 + 128];
    int at = first;
    while (at < first + 3 && q[at + 128] == low[i]) ++at;
    border[i] = (int8_t)at;
  }
  return {_mm512_load_si512(low), _mm512_load_si512(high), _mm512_load_si512(border)};
}
static inline u8 nearest_level(const Nearest& t, u8 x) {
  const __m512i bin = _mm512_srli_epi16(x, 2);  // of each byte the lower 6 bits count
  const __mmask64 m = _mm512_cmpge_epi8_mask(x, _mm512_permutexvar_epi8(bin, t.border));
  return _mm512_mask_permutexvar_epi8(_mm512_permutexvar_epi8(bin, t.low), m, bin, t.high);
}
#else
#include "nearest.h"
static inline u8 nearest_level(const Nearest& t, u8 x) {
  const __m512i bin = _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15));
  const auto all = [](__m128i table) { return _mm512_broadcast_i32x4(table); };
  const __mmask64 is_mid = _mm512_cmpgt_epi8_mask(x, _mm512_shuffle_epi8(all(t.below_mid), bin));
  const __mmask64 is_high = _mm512_cmpgt_epi8_mask(x, _mm512_shuffle_epi8(all(t.below_high), bin));
  const __m512i q =
      _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(all(t.low), bin), is_mid, all(t.mid), bin);
  return _mm512_mask_shuffle_epi8(q, is_high, all(t.high), bin);
}
#endif
static inline u8 magnitudes(u8 x) { return _mm512_abs_epi8(x); }
static inline u8 flip_sign(u8 x) { return _mm512_xor_si512(x, _mm512_set1_epi8((char)0x80)); }
// Of two columns of codes the low and the high halves of bytes.
static inline u8 join_codes(u8 x, u8 y) { return _mm512_or_si512(x, _mm512_slli_epi16(y, 4)); }
// acc + sums over 4 columns of products of unsigned and signed bytes, both within 127.
static inline i32 dot_bytes(i32 acc, u8 x, u8 y) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(y));
  return acc;
}
// 16 columns of bytes of 16 rows to four vectors of 4 columns each, a row a lane.
static inline void transpose4(const uint8_t* p, int64_t stride, u8* out) {
  const auto rows = [&](int64_t r) {
    const auto row = [&](int64_t i) { return _mm_loadu_si128((const __m128i*)(p + i * stride)); };
    __m512i v = _mm512_castsi128_si512(row(r));
    v = _mm512_inserti32x4(v, row(r + 4), 1);
    v = _mm512_inserti32x4(v, row(r + 8), 2);
    return _mm512_inserti32x4(v, row(r + 12), 3);
  };
  const __m512i r0 = rows(0), r1 = rows(1), r2 = rows(2), r3 = rows(3);
  const __m512i a = _mm512_unpacklo_epi32(r0, r1), b = _mm512_unpackhi_epi32(r0, r1);
  const __m512i c = _mm512_unpacklo_epi32(r2, r3), d = _mm512_unpackhi_epi32(r2, r3);
  out[0] = _mm512_unpacklo_epi64(a, c), out[1] = _mm512_unpackhi_epi64(a, c);
  out[2] = _mm512_unpacklo_epi64(b, d), out[3] = _mm512_unpackhi_epi64(b, d);
}
// The other way: four vectors, next to each other, to 16 rows of 4 bytes of each.
static inline void turn_rows(const uint8_t* p, uint8_t* out, int64_t stride) {
  const __m512i r0 = load_u8(p), r1 = load_u8(p + 64), r2 = load_u8(p + 128), r3 = load_u8(p + 192);
  const __m512i a = _mm512_unpacklo_epi32(r0, r1), b = _mm512_unpackhi_epi32(r0, r1);
  const __m512i c = _mm512_unpacklo_epi32(r2, r3), d = _mm512_unpackhi_epi32(r2, r3);
  const __m512i turned[] = {_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c),
                            _mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d)};
  for (int64_t i = 0; i < 4; ++i) {
    const auto row = [&](int64_t n) { return (__m128i*)(out + (i + 4 * n) * stride); };
    _mm_storeu_si128(row(0), _mm512_castsi512_si128(turned[i]));
    _mm_storeu_si128(row(1), _mm512_extracti32x4_epi32(turned[i], 1));
    _mm_storeu_si128(row(2), _mm512_extracti32x4_epi32(turned[i], 2));
    _mm_storeu_si128(row(3), _mm512_extracti32x4_epi32(turned[i], 3));
  }
}
// 16 words, looked up by 32 bytes below 16.
typedef __m512i Words16;
static inline Words16 load_words16(const uint16_t* t) {
  return _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)t));
}
static inline void look_up16(Words16 t, const uint8_t* codes, uint16_t* out) {
  const __m512i at = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)codes));
  _mm512_storeu_si512(out, _mm512_permutexvar_epi16(at, t));
}
// 32 columns, the even ones and the odd ones: so bfloat16 needs no shuffles.
struct Two {
  f32 x, y;
};
static inline Two load32(const uint16_t* p) {
  const __m512i v = _mm512_loadu_si512(p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(v, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)))};
}
static inline Two load32(const uint32_t* p) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const f32 a = load((const float*)p), b = load((const float*)p + 16);
  return {_mm512_permutex2var_ps(a, even, b),
          _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b)};
}
// 16-bit numbers that were packed from even and odd columns, 8 columns in each quarter, as bytes in
// order.
static inline void store_columns(uint8_t* p, __m512i v) {
  const __m128i order = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
  const __m256i bytes = _mm512_cvtepi16_epi8(v);
  _mm256_storeu_si256((__m256i*)p, _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(order)));
}
static inline void store_bytes(uint8_t* p, f32 x, f32 y) {
  store_columns(p, _mm512_packs_epi32(round_i32(x), round_i32(y)));
}
// Codes of the levels nearest to 32 values: of values in units of 1 / kCodeUnit the upper five bits
// tell all but on which side of one border they are.
struct Codes {
  __m512i code, below;
};
static inline Codes make_codes(const int8_t* levels, int count) {
  alignas(64) int16_t code[32], below[32];
  for (int i = 0; i < 32; ++i) {
    const int first = (i < 16 ? i : i - 32) * 2048;
    const auto border = [&](int c) { return (levels[c] + levels[c + 1]) * (kCodeUnit / 2); };
    code[i] = 0;
    while (code[i] < count - 1 && border(code[i]) <= first) ++code[i];
    const bool any = code[i] < count - 1 && border(code[i]) < first + 2048;
    below[i] = any ? (int16_t)(border(code[i]) - 1) : INT16_MAX;
  }
  return {_mm512_load_si512(code), _mm512_load_si512(below)};
}
static inline void store_codes(uint8_t* p, const Codes& t, f32 x, f32 y) {
  const __m512i v =
      _mm512_packs_epi32(round_i32(mul(x, set(kCodeUnit))), round_i32(mul(y, set(kCodeUnit))));
  const __m512i bin = _mm512_srai_epi16(v, 11), code = _mm512_permutexvar_epi16(bin, t.code);
  const __mmask32 above = _mm512_cmpgt_epi16_mask(v, _mm512_permutexvar_epi16(bin, t.below));
  const __m512i c = _mm512_mask_add_epi16(code, above, code, _mm512_set1_epi16(1));
  store_columns(p, c);
}

// 256 floats, looked up by 64 bytes. Where bytes can be looked up in 128 entries, the bytes of a
// float are four tables, and a float is put together from what these have: gathering is slower.
#ifdef __AVX512VBMI__
struct Floats256 {
  __m512i bytes[4][4];  // byte i of floats [64 j, 64 j + 64)
};
static inline Floats256 make_floats256(const float* t) {
  Floats256 r;
  alignas(64) uint8_t bytes[64];
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      for (int k = 0; k < 4; ++k) {
        const __m512i bits = _mm512_castps_si512(load(t + 64 * j + 16 * k));
        store_i8((int8_t*)bytes + 16 * k, _mm512_srl_epi32(bits, _mm_cvtsi32_si128(8 * i)));
      }
      r.bytes[i][j] = _mm512_load_si512(bytes);
    }
  return r;
}
static inline void look_up(const Floats256& t, const uint8_t* codes, f32* out) {
  // Unpacking works within quarters of a register.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i at = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(codes));
  const __mmask64 upper = _mm512_movepi8_mask(at);
  __m512i b[4];
  for (int i = 0; i < 4; ++i)
    b[i] = _mm512_mask_mov_epi8(_mm512_permutex2var_epi8(t.bytes[i][0], at, t.bytes[i][1]), upper,
                                _mm512_permutex2var_epi8(t.bytes[i][2], at, t.bytes[i][3]));
  const __m512i low = _mm512_unpacklo_epi8(b[0], b[1]), low2 = _mm512_unpacklo_epi8(b[2], b[3]);
  const __m512i high = _mm512_unpackhi_epi8(b[0], b[1]), high2 = _mm512_unpackhi_epi8(b[2], b[3]);
  out[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low, low2));
  out[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low, low2));
  out[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(high, high2));
  out[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(high, high2));
}
#else
struct Floats256 {
  const float* p;
};
static inline Floats256 make_floats256(const float* t) { return {t}; }
static inline void look_up(const Floats256& t, const uint8_t* codes, f32* out) {
  for (int i = 0; i < 4; ++i) {
    const __m128i c = _mm_loadu_si128((const __m128i*)(codes + 16 * i));
    out[i] = _mm512_i32gather_ps(_mm512_cvtepu8_epi32(c), t.p, 4);
  }
}
#endif
// One more where x is greater.
static inline void raise_codes(uint8_t* codes, f32 x, f32 limit) {
  const __m128i c = _mm_loadu_si128((const __m128i*)codes);
  const __m128i more = _mm_movm_epi8(_mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ));
  _mm_storeu_si128((__m128i*)codes, _mm_sub_epi8(c, more));
}
