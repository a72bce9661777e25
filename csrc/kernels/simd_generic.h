// Vectors of 16 lanes in plain C++: what every machine has, and the oracle of the other instruction
// sets.

struct f32 {
  float v[16];
};
struct i32 {
  int32_t v[16];
};
struct u8 {
  uint8_t v[64];
};

#define LING_LANES(n) for (int i = 0; i < (n); ++i)
// clang-format off: one line a function, for the eye compares them.
// Rows from which codes are unpacked once for all of them: beyond, bytes are read faster.
constexpr int kRowsOfCodes = 36;

static inline f32 load(const float* p) { f32 r; memcpy(r.v, p, 64); return r; }
static inline void store(float* p, f32 x) { memcpy(p, x.v, 64); }
static inline f32 set(float x) { f32 r; LING_LANES(16) r.v[i] = x; return r; }
static inline f32 zero() { return set(0); }
static inline f32 add(f32 x, f32 y) { LING_LANES(16) x.v[i] += y.v[i]; return x; }
static inline f32 sub(f32 x, f32 y) { LING_LANES(16) x.v[i] -= y.v[i]; return x; }
static inline f32 mul(f32 x, f32 y) { LING_LANES(16) x.v[i] *= y.v[i]; return x; }
static inline f32 div(f32 x, f32 y) { LING_LANES(16) x.v[i] /= y.v[i]; return x; }
static inline f32 root(f32 x) { LING_LANES(16) x.v[i] = sqrtf(x.v[i]); return x; }
static inline f32 fma(f32 x, f32 y, f32 z) { LING_LANES(16) z.v[i] = fmaf(x.v[i], y.v[i], z.v[i]); return z; }
static inline f32 absolute(f32 x) { LING_LANES(16) x.v[i] = fabsf(x.v[i]); return x; }
// The power of two at or below a value that is not negative: its bits without the mantissa.
static inline f32 power_below(f32 x) {
  LING_LANES(16) {
    uint32_t bits;
    memcpy(&bits, &x.v[i], 4);
    bits &= 0x7f800000;
    memcpy(&x.v[i], &bits, 4);
  }
  return x;
}
static inline f32 with_sign(f32 x, f32 sign) { LING_LANES(16) x.v[i] = copysignf(x.v[i], sign.v[i]); return x; }
static inline f32 maximum(f32 x, f32 y) { LING_LANES(16) y.v[i] = x.v[i] > y.v[i] ? x.v[i] : y.v[i]; return y; }
static inline f32 minimum(f32 x, f32 y) { LING_LANES(16) y.v[i] = x.v[i] < y.v[i] ? x.v[i] : y.v[i]; return y; }
static inline i32 round_i32(f32 x) {
  i32 r;
  // What the vector instructions give outside of int32 and for NaN.
  LING_LANES(16) r.v[i] = fabsf(x.v[i]) < 2147483648.f ? (int32_t)lrintf(x.v[i]) : INT32_MIN;
  return r;
}
static inline f32 to_f32(i32 x) { f32 r; LING_LANES(16) r.v[i] = (float)x.v[i]; return r; }
static inline i32 add_i32(i32 x, i32 y) { LING_LANES(16) x.v[i] += y.v[i]; return x; }
static inline i32 zero_i32() { i32 r; LING_LANES(16) r.v[i] = 0; return r; }
static inline f32 power2(i32 n) {
  f32 r;
  LING_LANES(16) {
    const uint32_t bits = (uint32_t)(n.v[i] + 127) << 23;
    memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
template <int n>
static inline i32 shift_left(i32 x) {
  LING_LANES(16) x.v[i] = (int32_t)((uint32_t)x.v[i] << n);
  return x;
}
static inline void store_i32(int32_t* p, i32 x) { memcpy(p, x.v, 64); }
static inline void store_i8(int8_t* p, i32 x) { LING_LANES(16) p[i] = (int8_t)x.v[i]; }
static inline f32 load_i8(const int8_t* p) { f32 r; LING_LANES(16) r.v[i] = (float)p[i]; return r; }
static inline f32 load_bf16(const uint16_t* p) { f32 r; LING_LANES(16) r.v[i] = from_bf16(p[i]); return r; }
static inline void store_bf16(uint16_t* p, f32 x) { LING_LANES(16) p[i] = to_bf16(x.v[i]); }

static inline u8 load_u8(const uint8_t* p) { u8 r; memcpy(r.v, p, 64); return r; }
static inline void store_u8(uint8_t* p, u8 x) { memcpy(p, x.v, 64); }
static inline void prefetch(const void*) {}

struct Levels { const uint8_t* p; };
static inline Levels load_levels(const uint8_t* levels) { return {levels}; }
static inline u8 low_codes(const Levels& t, u8 v) { LING_LANES(64) v.v[i] = t.p[v.v[i] & 15]; return v; }
static inline u8 high_codes(const Levels& t, u8 v) { LING_LANES(64) v.v[i] = t.p[v.v[i] >> 4]; return v; }
// Of a plane of lower bits and the one of third bits (LING_I3) the codes of eight columns, number n
// of four, in the halves of bytes.
template <int n>
static inline u8 join_planes(u8 low, u8 high) {
  LING_LANES(64) low.v[i] = (uint8_t)((low.v[i] >> n % 2 * 2 & 0x33) | ((high.v[i] << 2 >> n) & 0x44));
  return low;
}

static inline i32 dot_begin(int32_t) { return zero_i32(); }
static inline i32 dot4(i32 acc, u8 w, int32_t x4) {
  int8_t x[4];
  memcpy(x, &x4, 4);
  LING_LANES(16)
    for (int j = 0; j < 4; ++j) acc.v[i] += ((int32_t)w.v[4 * i + j] - 128) * x[j];
  return acc;
}
struct b16 { uint16_t v[32]; };  // 16 lanes × 2 bfloat16
static inline b16 load_pairs(const uint16_t* p) { b16 r; memcpy(r.v, p, 64); return r; }
static inline void store_pairs(uint16_t* p, b16 x) { memcpy(p, x.v, 64); }
static inline uint16_t bf16_of_fp8(uint8_t b) {
  const int next = (b + 1) & 127, sign = b & 128;
  const bool odd = next < 16;
  const int low = odd ? fp8_odd_low[next] : (b & 15) << 4;
  return (uint16_t)(low | (sign | (odd ? fp8_odd_high[next] : fp8_high[b >> 4])) << 8);
}
// E4M3 of 4 columns (LING_FP8) to bfloat16 pairs of the first and the last two.
static inline void widen_fp8(u8 v, b16* first, b16* last) {
  LING_LANES(32) {
    const int at = i / 8 * 16 + i % 8;
    first->v[i] = bf16_of_fp8(v.v[at]);
    last->v[i] = bf16_of_fp8(v.v[at + 8]);
  }
}

static inline f32 dot2(f32 acc, b16 w, uint32_t x2) {
  const float x0 = from_bf16((uint16_t)x2), x1 = from_bf16((uint16_t)(x2 >> 16));
  LING_LANES(16) {
    acc.v[i] = fmaf(from_bf16(w.v[2 * i]), x0, acc.v[i]);
    acc.v[i] = fmaf(from_bf16(w.v[2 * i + 1]), x1, acc.v[i]);
  }
  return acc;
}

static inline f32 first_lanes(int limit, f32 x, f32 y) { LING_LANES(16) if (i < limit) y.v[i] = x.v[i]; return y; }
static inline float reduce_add(f32 x) {
  for (int n = 8; n; n /= 2) LING_LANES(n) x.v[i] += x.v[i + n];
  return x.v[0];
}
static inline float reduce_max(f32 x) {
  float m = x.v[0];
  LING_LANES(16) m = x.v[i] > m ? x.v[i] : m;
  return m;
}

static inline f32 choose_greater(f32 x, f32 y, f32 p, f32 q) {
  LING_LANES(16) if (x.v[i] > y.v[i]) q.v[i] = p.v[i];
  return q;
}

// What x is to be read as, for x = -128 .. 127.
struct Nearest { int8_t q[256]; };
static inline Nearest make_nearest(const int8_t* q) { Nearest r; memcpy(r.q, q, 256); return r; }
static inline u8 nearest_level(const Nearest& t, u8 x) {
  LING_LANES(64) x.v[i] = (uint8_t)t.q[(int8_t)x.v[i] + 128];
  return x;
}
static inline u8 magnitudes(u8 x) { LING_LANES(64) x.v[i] = (uint8_t)abs((int8_t)x.v[i]); return x; }
static inline u8 flip_sign(u8 x) { LING_LANES(64) x.v[i] ^= 0x80; return x; }
static inline u8 join_codes(u8 x, u8 y) { LING_LANES(64) x.v[i] |= (uint8_t)(y.v[i] << 4); return x; }
static inline i32 dot_bytes(i32 acc, u8 x, u8 y) {
  LING_LANES(16)
    for (int j = 0; j < 4; ++j) acc.v[i] += x.v[4 * i + j] * (int8_t)y.v[4 * i + j];
  return acc;
}
static inline void transpose4(const uint8_t* p, int64_t stride, u8* out) {
  LING_LANES(64) memcpy(out[i % 4].v + i / 4 * 4, p + i / 4 * stride + i % 4 * 4, 4);
}
// The other way: four vectors, next to each other, to 16 rows of 4 bytes of each.
static inline void turn_rows(const uint8_t* p, uint8_t* out, int64_t stride) {
  LING_LANES(64) memcpy(out + i / 4 * stride + i % 4 * 4, p + i % 4 * 64 + i / 4 * 4, 4);
}
// 16 words, looked up by 32 bytes below 16.
struct Words16 { uint16_t v[16]; };
static inline Words16 load_words16(const uint16_t* t) { Words16 r; memcpy(r.v, t, 32); return r; }
static inline void look_up16(const Words16& t, const uint8_t* codes, uint16_t* out) { LING_LANES(32) out[i] = t.v[codes[i] & 15]; }
struct Codes { int32_t border[15]; };
static inline Codes make_codes(const int8_t* levels, int count) {
  Codes r;
  LING_LANES(15) r.border[i] = i < count - 1 ? (levels[i] + levels[i + 1]) * (kCodeUnit / 2) : INT32_MAX;
  return r;
}
static inline void store_codes(uint8_t* p, const Codes& t, f32 x, f32 y) {
  const i32 a = round_i32(mul(x, set(kCodeUnit))), b = round_i32(mul(y, set(kCodeUnit)));
  LING_LANES(32) {
    const int32_t v = i < 16 ? a.v[i] : b.v[i - 16];
    p[i] = 0;
    for (int j = 0; j < 15; ++j) p[i] += v >= t.border[j];
  }
}
// 256 floats, looked up by 64 bytes.
struct Floats256 { const float* p; };
static inline Floats256 make_floats256(const float* t) { return {t}; }
static inline void look_up(const Floats256& t, const uint8_t* codes, f32* out) {
  LING_LANES(64) out[i / 16].v[i % 16] = t.p[codes[i]];
}
// One more where x is greater.
static inline void raise_codes(uint8_t* codes, f32 x, f32 limit) { LING_LANES(16) codes[i] = (uint8_t)(codes[i] + (x.v[i] > limit.v[i])); }
// clang-format on
