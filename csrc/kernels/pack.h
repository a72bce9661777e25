// Quantising and packing weights, tile by tile.

// Bins of 8 over -128 .. 127: each holds at most one border between two levels.
struct Borders {
  float border[32], low[32], high[32], code[32];
};

static Borders make_borders() {
  Borders b;
  for (int i = 0; i < 32; ++i) {
    const float from = 8.0f * (float)i - 128, to = from + 8;
    int code = 0;
    while (code < 15 && (ling_levels[code] + ling_levels[code + 1]) * 0.5f <= from) ++code;
    const float border = code < 15 ? (ling_levels[code] + ling_levels[code + 1]) * 0.5f : to;
    b.code[i] = (float)code;
    b.border[i] = border < to ? border : 1e30f;
    b.low[i] = ling_levels[code];
    b.high[i] = ling_levels[code < 15 ? code + 1 : 15];
  }
  return b;
}

static inline i32 bin_of(f32 x) {
  x = maximum(set(-127.9f), minimum(set(127.9f), x));
  return round_i32(fma(x, set(0.125f), set(15.5f)));
}

// A group of weights in float32, padded with zeros.
static void load_group(const void* w, bool bf16, int64_t at, int64_t have, int64_t group, float* x) {
  int64_t i = 0;
  if (bf16) {
    const uint16_t* p = static_cast<const uint16_t*>(w) + at;
    for (; i + 16 <= have; i += 16) store(x + i, load_bf16(p + i));
    for (; i < have; ++i) {
      uint16_t t[16] = {p[i]};
      float f[16];
      store(f, load_bf16(t));
      x[i] = f[0];
    }
  } else {
    const float* p = static_cast<const float*>(w) + at;
    for (; i < have; ++i) x[i] = p[i];
  }
  for (; i < group; ++i) x[i] = 0;
}

static inline float round_bf16(float x, uint16_t* bits) {
  uint16_t t[16];
  float f[16];
  store_bf16(t, set(x));
  store(f, load_bf16(t));
  *bits = t[0];
  return f[0];
}

// The scale that minimises the weighed squared error over a grid of clips; for each, the levels are
// the nearest ones and the scale is then refitted by least squares.
static float best_scale(const float* x, const float* h, int64_t group, float amax,
                        const Table32& border, const Table32& low, const Table32& high) {
  // The largest magnitude may lie on either side of the lopsided levels: -127 or 105.
  static const float grid[] = {-148, -140, -133, -127, -121, -115, -109, -102,
                               124,  117,  111,  105,  100,  95,   90,   84};
  int64_t where = 0;
  for (int64_t i = 1; i < group; ++i)
    if (__builtin_fabsf(x[i]) > __builtin_fabsf(x[where])) where = i;
  const float sign = x[where] < 0 ? -1.0f : 1.0f;
  float best = -1, scale = 0;
  for (float clip : grid) {
    const f32 inverse = set(sign * clip / amax);
    f32 num = zero(), den = zero();
    for (int64_t i = 0; i < group; i += 16) {
      const f32 scaled = mul(load(x + i), inverse);
      const i32 bin = bin_of(scaled);
      const f32 q = choose_greater(look(border, bin), scaled, look(low, bin), look(high, bin));
      const f32 hq = h ? mul(q, load(h + i)) : q;
      num = fma(hq, scaled, num);
      den = fma(hq, q, den);
    }
    const float n = reduce_add(num), d = reduce_add(den);
    // The error is sum h·x² - n²/d, here in units of the clip so that no sum leaves float32's range.
    const float gain = n * n / d / (clip * clip);
    if (d > 0 && gain > best) best = gain, scale = n / d * (amax * sign / clip);
  }
  return scale;
}

static void pack_i4(int64_t group, int64_t rows, int64_t cols, const void* w, bool bf16,
                    int64_t stride, const float* importance, int64_t tile, uint8_t* data,
                    uint16_t* scales) {
  static const Borders b = make_borders();
  const Table32 border = load_table32(b.border), low = load_table32(b.low);
  const Table32 high = load_table32(b.high), first = load_table32(b.code);
  float x[256], h[256];
  int32_t codes[256];
  for (int64_t r = 0; r < kTile; ++r) {
    const int64_t row = tile * kTile + r;
    for (int64_t g = 0; g < ceil_div(cols, group); ++g) {
      const int64_t start = g * group, left = cols - start, have = left < group ? left : group;
      load_group(w, bf16, row * stride + start, row < rows ? have : 0, group, x);
      if (importance) load_group(importance, false, start, have, group, h);
      const float amax = group_amax(x, group);
      float scale = amax;  // NaN stays NaN
      if (amax > 0)
        scale = best_scale(x, importance ? h : nullptr, group, amax, border, low, high);
      scale = round_bf16(scale, &scales[g * kTile + r]);
      const f32 inverse = set(scale != 0 && scale == scale ? 1 / scale : 0);
      for (int64_t i = 0; i < group; i += 16) {
        const f32 scaled = scale == scale ? mul(load(x + i), inverse) : zero();
        const i32 bin = bin_of(scaled);
        const i32 code = add_i32(round_i32(look(first, bin)), at_least(scaled, look(border, bin)));
        store_i32(codes + i, code);
      }
      for (int64_t k = 0; k < group; k += 8)
        for (int64_t j = 0; j < 4; ++j)
          data[(start + k) * 8 + r * 4 + j] = (uint8_t)(codes[k + j] | codes[k + 4 + j] << 4);
    }
  }
}

static void pack_i8(int64_t group, int64_t rows, int64_t cols, const void* w, bool bf16,
                    int64_t stride, int64_t tile, uint8_t* data, uint16_t* scales) {
  float x[256];
  int32_t q[256];
  for (int64_t r = 0; r < kTile; ++r) {
    const int64_t row = tile * kTile + r;
    for (int64_t g = 0; g < ceil_div(cols, group); ++g) {
      const int64_t start = g * group, left = cols - start, have = left < group ? left : group;
      load_group(w, bf16, row * stride + start, row < rows ? have : 0, group, x);
      const float amax = group_amax(x, group);
      const float scale = round_bf16(amax / 127, &scales[g * kTile + r]);
      const f32 inverse = set(scale > 0 ? 1 / scale : 0);
      for (int64_t i = 0; i < group; i += 16) {
        f32 v = scale > 0 ? mul(load(x + i), inverse) : zero();
        store_i32(q + i, round_i32(maximum(set(-127), minimum(set(127), v))));
      }
      for (int64_t k = 0; k < group; ++k)
        data[(start + k) / 4 * 64 + r * 4 + k % 4] = (uint8_t)(q[k] + 128);
    }
  }
}

static void pack_bf16(int64_t rows, int64_t cols, const void* w, bool bf16, int64_t stride,
                      int64_t tile, uint16_t* data) {
  for (int64_t r = 0; r < kTile; ++r) {
    const int64_t row = tile * kTile + r;
    for (int64_t k = 0; k < ceil_div(cols, 2) * 2; ++k) {
      uint16_t bits = 0;
      if (row < rows && k < cols) {
        if (bf16)
          bits = static_cast<const uint16_t*>(w)[row * stride + k];
        else
          round_bf16(static_cast<const float*>(w)[row * stride + k], &bits);
      }
      data[k / 2 * 32 + r * 2 + k % 2] = bits;
    }
  }
}

static void pack(int32_t kind, int64_t group, int64_t rows, int64_t cols, const void* w, bool bf16,
                 int64_t stride, const float* importance, int64_t begin, int64_t end, void* data,
                 void* scales) {
  const ling_matrix m = {kind, (int32_t)group, rows, cols, data, scales};
  for (int64_t tile = begin; tile < end; ++tile) {
    uint8_t* to = static_cast<uint8_t*>(data) + tile * tile_bytes(m);
    uint16_t* s = static_cast<uint16_t*>(scales) + tile * tile_scales(m);
    if (kind == LING_I4)
      pack_i4(group, rows, cols, w, bf16, stride, importance, tile, to, s);
    else if (kind == LING_I8)
      pack_i8(group, rows, cols, w, bf16, stride, tile, to, s);
    else
      pack_bf16(rows, cols, w, bf16, stride, tile, reinterpret_cast<uint16_t*>(to));
  }
}
