// Quantising to E4M3 as training does it, and back: `ling/ops/fp8_tiles.py` is the definition.

static inline f32 load_values(const uint16_t* p) { return load_bf16(p); }
static inline f32 load_values(const float* p) { return load(p); }

static inline float encoder(float amax, bool finite, bool power_of_two) {
  if (!finite || !(amax > 0)) return 1;
  const float largest = 3.40282347e38f;
  float enc = 448 / amax;
  if (enc > largest) enc = largest;
  if (!power_of_two) return enc;
  uint32_t bits;
  memcpy(&bits, &enc, 4);
  bits &= 0x7f800000;
  memcpy(&enc, &bits, 4);
  return enc;
}

// To the nearest E4M3 value, ties to even; beyond 448 to 448. A sum with 2^20 times the power of
// two below a value has no room for more than its three bits; below 2^-6 the step is fixed.
static inline f32 round_e4m3(f32 z) {
  const f32 m = minimum(set(448), absolute(z));
  const f32 top = mul(maximum(power_below(m), set(0x1p-6f)), set(0x1p20f));
  return with_sign(sub(add(m, top), top), z);
}

// Codes of n E4M3 values. A plain loop: compilers make vectors of it.
static void e4m3_codes(const float* x, int64_t n, uint8_t* codes) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    memcpy(&bits, x + i, 4);
    const uint32_t magnitude = bits & 0x7fffffff;
    float value;
    memcpy(&value, &magnitude, 4);
    const uint32_t small = (uint32_t)(int32_t)((value < 1 ? value : 1) * 512);
    uint32_t code = magnitude < 0x3c800000 ? small : (magnitude >> 20) - 960;  // below 2^-6
    code = magnitude > 0x7f800000 ? 0x7f : code;
    codes[i] = (uint8_t)(code | (bits >> 24 & 0x80));
  }
}

// n codes times one scale, as bfloat16. A code's bits are those of a float32 with another exponent;
// below 2^-6 (8 codes) they count steps of 2^-9 from 2^-6 on, which is taken away again.
static void widen_e4m3(const uint8_t* codes, int64_t n, float scale, uint16_t* out) {
  uint32_t bits[128] = {};
  float less[128] = {}, times[128] = {};
  for (int64_t first = 0; first < n; first += 128) {
    const int64_t m = n - first < 128 ? n - first : 128;
    const uint8_t* part = codes + first;
    for (int64_t i = 0; i < m; ++i) {
      const uint32_t code = part[i] & 127;
      const uint32_t value = (code << 20) + (code < 8 ? 121u << 23 : 120u << 23);
      bits[i] = code == 127 ? 0x7fc00000 : value;
      less[i] = code < 8 ? 0x1p-6f : 0.0f;
      times[i] = part[i] < 128 ? scale : -scale;
    }
    for (int64_t i = 0; i < m; i += 16) {
      const f32 value = sub(load((const float*)(bits + i)), load(less + i));
      if (i + 16 <= m) {
        store_bf16(out + first + i, mul(value, load(times + i)));
        continue;
      }
      uint16_t rest[16];
      store_bf16(rest, mul(value, load(times + i)));
      memcpy(out + first + i, rest, (size_t)(m - i) * 2);
    }
  }
}

// What a vector of E4M3 values becomes.
struct Fp8Store {
  uint16_t* rounded;
  float* values;
  // cvtneps flushes what is below the normal numbers, which only the smallest scales can give.
  bool exact;
  void operator()(f32 value, f32 inverse, int64_t at) const {
    if (rounded && exact) store_bf16(rounded + at, mul(value, inverse));
    if (rounded && !exact) store_rounded(rounded + at, mul(value, inverse));
    if (values) store(values + at, value);
  }
};
constexpr float kExactAbove = 0x1p110f;

// A tile of 1 × 128.
template <class T>
static inline void fp8_row_tile(const T* x, bool power_of_two, uint16_t* rounded, uint8_t* codes,
                                float* inverse) {
  f32 v[8], top = zero(), odd = zero();
  for (int j = 0; j < 8; ++j) {
    v[j] = load_values(x + 16 * j);
    top = maximum(top, absolute(v[j]));
    odd = fma(v[j], zero(), odd);  // 0 · inf and 0 · NaN are NaN
  }
  const float enc = encoder(reduce_max(top), reduce_add(odd) == 0, power_of_two);
  const f32 times = set(enc), back = set(1 / enc);
  float values[128];
  const Fp8Store put = {rounded, codes ? values : nullptr, enc > kExactAbove};
  for (int j = 0; j < 8; ++j) put(round_e4m3(mul(v[j], times)), back, 16 * j);
  if (codes) e4m3_codes(values, 128, codes);
  if (inverse) *inverse = 1 / enc;
}

template <class T>
static void fp8_row(const T* x, int64_t n, bool power_of_two, uint16_t* rounded, uint8_t* codes,
                    float* inverse) {
  int64_t i = 0, tile = 0;
  for (; i + 128 <= n; i += 128, ++tile)
    fp8_row_tile(x + i, power_of_two, rounded ? rounded + i : nullptr, codes ? codes + i : nullptr,
                 inverse ? inverse + tile : nullptr);
  if (i == n) return;
  T part[128] = {};
  uint16_t part_rounded[128];
  uint8_t part_codes[128];
  memcpy(part, x + i, (size_t)(n - i) * sizeof(T));
  fp8_row_tile(part, power_of_two, part_rounded, codes ? part_codes : nullptr,
               inverse ? inverse + tile : nullptr);
  if (rounded) memcpy(rounded + i, part_rounded, (size_t)(n - i) * 2);
  if (codes) memcpy(codes + i, part_codes, (size_t)(n - i));
}

// Adds to the largest magnitude of each of 16 · V columns, and marks those that are not finite.
template <int V, class T>
static inline void fp8_maxima(const T* x, int64_t stride, int64_t rows, float* amax, float* odd) {
  f32 top[V], bad[V];
  for (int j = 0; j < V; ++j) top[j] = bad[j] = zero();
  for (int64_t r = 0; r < rows; ++r)
    for (int j = 0; j < V; ++j) {
      const f32 v = load_values(x + r * stride + 16 * j);
      top[j] = maximum(top[j], absolute(v));
      bad[j] = fma(v, zero(), bad[j]);
    }
  for (int j = 0; j < V; ++j) store(amax + 16 * j, top[j]), store(odd + 16 * j, bad[j]);
}

template <int V, class T>
static inline void fp8_convert(const T* x, int64_t stride, int64_t rows, const float* enc,
                               const float* inverse, bool exact, uint16_t* rounded, uint8_t* codes,
                               int64_t out_stride) {
  f32 times[V], back[V];
  for (int j = 0; j < V; ++j) times[j] = load(enc + 16 * j), back[j] = load(inverse + 16 * j);
  float values[16 * V];
  for (int64_t r = 0; r < rows; ++r) {
    const Fp8Store put = {rounded ? rounded + r * out_stride : nullptr, codes ? values : nullptr,
                          exact};
    for (int j = 0; j < V; ++j)
      put(round_e4m3(mul(load_values(x + r * stride + 16 * j), times[j])), back[j], 16 * j);
    if (codes) e4m3_codes(values, 16 * V, codes + r * out_stride);
  }
}

// The columns from `first` on that are no whole vector, in a copy with zeros behind them.
template <class T, class F>
static inline void with_padded_columns(const T* x, const Fp8Area& a, int64_t first, const F& f) {
  T copy[128 * 16] = {};
  for (int64_t r = 0; r < a.rows; ++r)
    memcpy(copy + 16 * r, x + r * a.stride + first, (size_t)(a.cols - first) * sizeof(T));
  f(copy);
}

template <class T>
static void fp8_area(const T* x, const Fp8Area& a, uint16_t* rounded, uint8_t* codes,
                     float* inverse) {
  float amax[128], odd[128], enc[128], back[128];
  const int64_t whole = a.cols / 16 * 16;
  if (a.cols == 128) {
    fp8_maxima<8>(x, a.stride, a.rows, amax, odd);
  } else {
    for (int64_t c = 0; c < whole; c += 16)
      fp8_maxima<1>(x + c, a.stride, a.rows, amax + c, odd + c);
    if (whole < a.cols)
      with_padded_columns(x, a, whole, [&](const T* copy) {
        fp8_maxima<1>(copy, 16, a.rows, amax + whole, odd + whole);
      });
  }
  if (a.one_scale) {
    float top = 0, bad = 0;
    for (int64_t c = 0; c < a.cols; ++c) top = top > amax[c] ? top : amax[c], bad += odd[c];
    for (int64_t c = 0; c < 128; ++c) amax[c] = top, odd[c] = bad;
  }
  float largest = 0;
  for (int64_t c = 0; c < 128; ++c) {
    enc[c] = c < a.cols ? encoder(amax[c], odd[c] == 0, a.power_of_two) : 1;
    back[c] = 1 / enc[c];
    largest = largest > enc[c] ? largest : enc[c];
  }
  const bool exact = largest > kExactAbove;
  if (inverse) memcpy(inverse, back, (size_t)(a.one_scale ? 1 : a.cols) * 4);
  const auto at = [&](auto* p, int64_t c) { return p ? p + c : nullptr; };
  if (a.cols == 128) {
    fp8_convert<8>(x, a.stride, a.rows, enc, back, exact, rounded, codes, a.out_stride);
    return;
  }
  for (int64_t c = 0; c < whole; c += 16)
    fp8_convert<1>(x + c, a.stride, a.rows, enc + c, back + c, exact, at(rounded, c), at(codes, c),
                   a.out_stride);
  if (whole == a.cols) return;
  with_padded_columns(x, a, whole, [&](const T* copy) {
    uint16_t part_rounded[128 * 16];
    uint8_t part_codes[128 * 16];
    fp8_convert<1>(copy, 16, a.rows, enc + whole, back + whole, exact, part_rounded, part_codes,
                   16);
    for (int64_t r = 0; r < a.rows; ++r)
      for (int64_t c = whole; c < a.cols; ++c) {
        if (rounded) rounded[r * a.out_stride + c] = part_rounded[16 * r + c - whole];
        if (codes) codes[r * a.out_stride + c] = part_codes[16 * r + c - whole];
      }
  });
}

static void quantise_fp8_row(const void* x, bool bf16, int64_t n, bool power_of_two,
                             uint16_t* rounded, uint8_t* codes, float* inverse) {
  if (bf16) return fp8_row((const uint16_t*)x, n, power_of_two, rounded, codes, inverse);
  fp8_row((const float*)x, n, power_of_two, rounded, codes, inverse);
}

static void quantise_fp8_area(const void* x, bool bf16, const Fp8Area& a, uint16_t* rounded,
                              uint8_t* codes, float* inverse) {
  if (bf16) return fp8_area((const uint16_t*)x, a, rounded, codes, inverse);
  fp8_area((const float*)x, a, rounded, codes, inverse);
}
