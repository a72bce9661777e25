// Work on single rows: norms, activations, quantisation, rotary embedding, Hadamard turn.

// e^x within 2 ulp (Cephes' split of ln 2, polynomial of degree 6 on |r| <= ln 2 / 2). Never 0 or
// inf.
static inline f32 exponential(f32 x) {
  x = maximum(set(-87.3f), minimum(set(88.3f), x));
  const i32 n = round_i32(mul(x, set(1.44269504f)));
  const f32 nf = to_f32(n);
  f32 r = fma(nf, set(-0.693359375f), x);
  r = fma(nf, set(2.12194440e-4f), r);
  f32 p = set(1.3981999507e-3f);
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  p = fma(p, mul(r, r), add(r, set(1)));
  return mul(p, power2(n));
}

static inline f32 sigmoid16(f32 x) { return div(set(1), add(set(1), exponential(sub(zero(), x)))); }

// The first n (1 to 16) of the lanes at p, the rest zero.
static inline f32 load_part(const float* p, int64_t n) {
  if (n >= 16) return load(p);
  float t[16] = {};
  for (int64_t i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
}
static inline void store_part(float* p, f32 x, int64_t n) {
  if (n >= 16) return store(p, x);
  float t[16];
  store(t, x);
  for (int64_t i = 0; i < n; ++i) p[i] = t[i];
}

static void rms_norm(const float* x, const float* w, float eps, int64_t n, float* y) {
  f32 s = zero();
  for (int64_t i = 0; i < n; i += 16) {
    const f32 v = load_part(x + i, n - i);
    s = fma(v, v, s);
  }
  const f32 scale = set(1.0f / __builtin_sqrtf(reduce_add(s) / (float)n + eps));
  for (int64_t i = 0; i < n; i += 16)
    store_part(y + i, mul(mul(load_part(x + i, n - i), scale), load_part(w + i, n - i)), n - i);
}

// The gradient of x from that of y, n values, a multiple of 16; that of w is added to `dw`.
static void rms_norm_gradient(const float* x, const float* w, const float* dy, float eps, int64_t n,
                              float* dx, float* dw) {
  f32 squares = zero(), products = zero();
  for (int64_t i = 0; i < n; i += 16) {
    const f32 v = load(x + i);
    squares = fma(v, v, squares);
    products = fma(mul(load(dy + i), load(w + i)), v, products);
  }
  const float scale = 1 / sqrtf(reduce_add(squares) / (float)n + eps);
  const f32 by = set(scale), mean = set(reduce_add(products) * scale / (float)n);
  for (int64_t i = 0; i < n; i += 16) {
    const f32 h = mul(load(x + i), by), d = load(dy + i);
    store(dw + i, fma(d, h, load(dw + i)));
    store(dx + i, mul(sub(mul(d, load(w + i)), mul(h, mean)), by));
  }
}

// Largest magnitude of a group, or NaN when a value is not finite. Below 1e-36 a group counts as
// zeros: reciprocals of its scale would be infinite.
static inline float group_amax(const float* x, int64_t n) {
  f32 top = zero(), odd = zero();
  for (int64_t i = 0; i < n; i += 16) {
    const f32 v = load_part(x + i, n - i);
    top = maximum(top, absolute(v));
    odd = fma(v, zero(), odd);  // 0 · inf and 0 · NaN are NaN
  }
  const float bad = reduce_add(odd);
  if (bad != 0) return __builtin_nanf("");
  const float amax = reduce_max(top);
  return amax < 1e-36f ? 0 : amax;
}

static inline int32_t sum_lanes(i32 x) {
  int32_t lanes[16], total = 0;
  store_i32(lanes, x);
  for (int i = 0; i < 16; ++i) total += lanes[i];
  return total;
}

static void quantise_row(const float* x, int64_t n, int64_t padded, int64_t group, int8_t* q,
                         float* scales, int32_t* sums) {
  for (int64_t g = 0; g < padded / group; ++g) {
    const int64_t start = g * group, have = n - start < group ? n - start : group;
    const float amax = group_amax(x + start, have);
    scales[g] = amax / 127;
    // A NaN scale makes the whole row of the result NaN; its codes must still be codes.
    const f32 inverse = set(amax > 0 ? 127 / amax : 0);
    i32 sum = zero_i32();
    for (int64_t i = 0; i < group; i += 16) {
      f32 v = i < have ? mul(load_part(x + start + i, have - i), inverse) : zero();
      v = maximum(set(-127), minimum(set(127), v));
      if (!(amax > 0)) v = zero();
      const i32 r = round_i32(v);
      sum = add_i32(sum, r);
      int8_t bytes[16];
      store_i8(bytes, r);
      const int64_t m = group - i < 16 ? group - i : 16;
      __builtin_memcpy(q + start + i, bytes, (size_t)m);
    }
    sums[g] = -128 * sum_lanes(sum);
  }
}

// Codes of int4 levels with one scale: the largest magnitude takes the lowest level, and then the
// scale that fits the codes best. A search over clips would bring a tenth less error.
static void quantise_row_i4(const float* x, int64_t n, uint8_t* codes, float* scale) {
  static const Codes table = make_codes(kInt4Levels, 16);
  const Levels levels = load_levels(kInt4Bytes.value);
  const float amax = group_amax(x, n);
  f32 top = load(x);
  for (int64_t i = 16; i < n; i += 16) top = maximum(top, load(x + i));
  const float clip = reduce_max(top) >= amax ? kInt4Levels[0] : -kInt4Levels[0];
  const f32 inverse = set(amax > 0 ? clip / amax : 0);
  const auto in_levels = [&](f32 v) { return amax > 0 ? mul(v, inverse) : zero(); };
  f32 product = zero(), square = zero();
  for (int64_t i = 0; i < n; i += 32) {
    const Two v = load32(reinterpret_cast<const uint32_t*>(x + i));
    uint8_t bytes[64] = {};
    store_codes(bytes, table, in_levels(v.x), in_levels(v.y));
    __builtin_memcpy(codes + i, bytes, 32);
    store_u8(bytes, flip_sign(low_codes(levels, load_u8(bytes))));
    for (int j = 0; j < 32; j += 16) {
      const f32 level = load_i8(reinterpret_cast<const int8_t*>(bytes) + j);
      product = fma(level, in_levels(load(x + i + j)), product);
      square = fma(level, level, square);
    }
  }
  *scale = amax > 0 ? reduce_add(product) / reduce_add(square) * (amax / clip) : amax;
}

// The Hadamard matrix of 16: -1 where i & j has an odd number of bits.
struct Signs {
  alignas(64) float row[16][16];
};
static constexpr Signs make_signs() {
  Signs signs = {};
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) signs.row[i][j] = __builtin_parity(unsigned(i & j)) ? -1 : 1;
  return signs;
}
static constexpr Signs signs = make_signs();

// x times the orthonormal Hadamard matrix of n, a power of two from 16 on: its own inverse.
static void hadamard(float* x, int64_t n) {
  const f32 unit = set(1.0f / __builtin_sqrtf((float)n));
  for (int64_t i = 0; i < n; i += 16) {
    f32 sum = zero();
    for (int j = 0; j < 16; ++j) sum = fma(set(x[i + j]), load(signs.row[j]), sum);
    store(x + i, mul(sum, unit));
  }
  for (int64_t width = 16; width < n; width *= 2)
    for (int64_t i = 0; i < n / 2; i += 16) {
      float *p = x + i + i / width * width, *q = p + width;  // blocks of `width`, two by two
      const f32 a = load(p), b = load(q);
      store(p, add(a, b)), store(q, sub(a, b));
    }
}

static void round_row(const float* x, int64_t n, int64_t padded, uint16_t* q) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store_bf16(q + i, load(x + i));
  for (; i < padded; i += 16) {
    uint16_t t[16];
    store_bf16(t, i < n ? load_part(x + i, n - i) : zero());
    for (int64_t j = i; j < padded && j < i + 16; ++j) q[j] = t[j - i];
  }
}

static void sigmoid(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += 16) store_part(y + i, sigmoid16(load_part(x + i, n - i)), n - i);
}

// Rotates channels 0 .. 2·half: pairs are (i, i + half).
static void rotate(float* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; i += 16) {
    const int64_t n = half - i;
    const f32 a = load_part(x + i, n), b = load_part(x + half + i, n);
    const f32 c = load_part(cos + i, n), s = load_part(sin + i, n);
    store_part(x + i, sub(mul(a, c), mul(b, s)), n);
    store_part(x + half + i, fma(a, s, mul(b, c)), n);
  }
}

static void embed_i8(const int8_t* q, const uint16_t* scales, int64_t n, int64_t group, float* y) {
  for (int64_t i = 0; i < n; i += 16) {
    int8_t t[16] = {};
    const int64_t m = n - i < 16 ? n - i : 16;
    __builtin_memcpy(t, q + i, (size_t)m);
    uint16_t s[16];
    for (int j = 0; j < 16; ++j) s[j] = scales[i / group];
    store_part(y + i, mul(load_i8(t), load_bf16(s)), n - i);
  }
}

static float read_bytes(const void* data, int64_t n) {
  const float* p = static_cast<const float*>(data);
  f32 a = zero(), b = zero(), c = zero(), d = zero();
  for (int64_t i = 0; i < n / 4; i += 64) {
    prefetch(p + i + 1024);
    prefetch(p + i + 1040);
    prefetch(p + i + 1056);
    prefetch(p + i + 1072);
    a = add(a, load(p + i)), b = add(b, load(p + i + 16));
    c = add(c, load(p + i + 32)), d = add(d, load(p + i + 48));
  }
  return reduce_add(add(add(a, b), add(c, d)));
}
