// Quantising and packing weights, tile by tile.

// Bins of 10 over -158 .. 162: each holds at most one border between two levels, none at its edge.
struct Borders {
  float border[32], low[32], high[32], code[32];
};

static Borders make_borders() {
  Borders b;
  for (int i = 0; i < 32; ++i) {
    const float from = 10.0f * (float)i - 158, to = from + 10;
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

// Of values between -158 and 162.
static inline i32 bin_of(f32 x) { return round_i32(fma(x, set(0.1f), set(15.3f))); }

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

// Everything below holds 16 rows, one a lane: a group then needs no sums across lanes.
struct Tables {
  Table32 border, low, high, code;
};

static inline f32 nearest_level(const Tables& t, f32 x) {
  const i32 bin = bin_of(x);
  return choose_greater(look(t.border, bin), x, look(t.low, bin), look(t.high, bin));
}

// The scale that minimises the weighed squared error over a grid of clips; for each, the levels are
// the nearest ones and the scale is then refitted by least squares. x [group][16] is finite, amax is
// above 0, and the group's largest magnitude has the given sign.
static f32 best_scale(const float* x, const float* h, int64_t group, f32 amax, f32 sign,
                      const Tables& t) {
  // The largest magnitude may lie on either side of the lopsided levels: -127 or 105.
  static const float grid[] = {-148, -140, -133, -127, -121, -115, -109, -102,
                               124,  117,  111,  105,  100,  95,   90,   84};
  f32 best = set(-1), scale = zero();
  for (float clip : grid) {
    const f32 inverse = div(mul(sign, set(clip)), amax);
    f32 num = zero(), den = zero();
    for (int64_t k = 0; k < group; ++k) {
      const f32 scaled = mul(load(x + 16 * k), inverse), q = nearest_level(t, scaled);
      const f32 hq = h ? mul(q, set(h[k])) : q;
      num = fma(hq, scaled, num);
      den = fma(hq, q, den);
    }
    // The error is sum h·x² - n²/d, here in units of the clip so that no sum leaves float32's range.
    // Without weight on any column it is NaN, which is never better.
    const f32 gain = div(div(mul(num, num), den), set(clip * clip));
    const f32 refit = mul(div(num, den), div(mul(amax, sign), set(clip)));
    scale = choose_greater(gain, best, refit, scale);
    best = choose_greater(gain, best, gain, best);
  }
  return scale;
}

// Transposes a group of a tile's rows to x [group][16]; returns the largest magnitudes as group_amax
// does, and the sign of what has them. Rows that have none become zeros.
static f32 load_rows(const void* w, bool bf16, int64_t row, int64_t rows, int64_t stride,
                     int64_t start, int64_t have, int64_t group, float* x, f32* sign) {
  float one[256];
  for (int64_t r = 0; r < kTile; ++r) {
    load_group(w, bf16, (row + r) * stride + start, row + r < rows ? have : 0, group, one);
    for (int64_t k = 0; k < group; ++k) x[16 * k + r] = one[k];
  }
  f32 top = zero(), largest = zero(), odd = zero();
  for (int64_t k = 0; k < group; ++k) {
    const f32 v = load(x + 16 * k), size = absolute(v);
    largest = choose_greater(size, top, v, largest);
    top = choose_greater(size, top, size, top);
    odd = fma(v, zero(), odd);  // 0 · inf and 0 · NaN are NaN
  }
  *sign = choose_greater(zero(), largest, set(-1), set(1));
  top = choose_greater(set(1e-36f), top, zero(), top);
  const f32 amax = add(top, odd);
  for (int64_t k = 0; k < group; ++k)
    store(x + 16 * k, choose_greater(amax, zero(), load(x + 16 * k), zero()));
  return amax;
}

static void pack_i4(int64_t group, int64_t rows, int64_t cols, const void* w, bool bf16,
                    int64_t stride, const float* importance, int64_t tile, uint8_t* data,
                    uint16_t* scales) {
  static const Borders b = make_borders();
  const Tables t = {load_table32(b.border), load_table32(b.low), load_table32(b.high),
                    load_table32(b.code)};
  float x[256 * kTile], h[256];
  for (int64_t g = 0; g < ceil_div(cols, group); ++g) {
    const int64_t start = g * group, left = cols - start, have = left < group ? left : group;
    f32 sign;
    const f32 amax = load_rows(w, bf16, tile * kTile, rows, stride, start, have, group, x, &sign);
    if (importance) load_group(importance, false, start, have, group, h);
    const f32 safe = choose_greater(amax, zero(), amax, set(1));
    const f32 found = best_scale(x, importance ? h : nullptr, group, safe, sign, t);
    uint16_t* s = scales + g * kTile;
    store_bf16(s, choose_greater(amax, zero(), found, amax));  // NaN stays NaN
    const f32 scale = load_bf16(s);
    const f32 inverse = choose_greater(absolute(scale), zero(), div(set(1), scale), zero());
    const auto code = [&](int64_t k) {
      f32 scaled = mul(load(x + 16 * k), inverse);
      scaled = maximum(set(-157), minimum(set(157), scaled));
      const i32 bin = bin_of(scaled);
      return add_i32(round_i32(look(t.code, bin)), at_least(scaled, look(t.border, bin)));
    };
    for (int64_t k = 0; k < group; k += 8) {
      const auto byte = [&](int64_t j) {
        return add_i32(code(k + j), shift_left<4>(code(k + 4 + j)));
      };
      const i32 low = add_i32(byte(0), shift_left<8>(byte(1)));
      const i32 high = add_i32(byte(2), shift_left<8>(byte(3)));
      int32_t word[kTile];
      store_i32(word, add_i32(low, shift_left<16>(high)));
      __builtin_memcpy(data + (start + k) * 8, word, sizeof word);
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
    uint16_t* s = static_cast<uint16_t*>(scales) + tile * tile_scale_bytes(m) / 2;
    if (kind == LING_I4)
      pack_i4(group, rows, cols, w, bf16, stride, importance, tile, to, s);
    else if (kind == LING_I8)
      pack_i8(group, rows, cols, w, bf16, stride, tile, to, s);
    else
      pack_bf16(rows, cols, w, bf16, stride, tile, reinterpret_cast<uint16_t*>(to));
  }
}
