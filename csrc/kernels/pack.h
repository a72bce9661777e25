// Quantising and packing weights: a group of columns of a tile of 16 rows at a time. Rows are scaled
// one by one and then turned (`transpose4`), so that a lane holds a row and no sum crosses lanes.

constexpr int64_t kMaxGroup = 256;
constexpr int kClips = 12;
// Where a group's largest magnitude may come to lie, in units of the levels: on the side of -127 or on
// that of 105. How these were chosen: docs/concepts/formats.md.
static const int clip_of[kClips] = {-140, -133, -130, -124, -118, -109, -105, -98, 114, 108, 105, 100};

static inline f32 load16(const uint16_t* p) { return load_bf16(p); }
static inline f32 load16(const uint32_t* p) { return load(reinterpret_cast<const float*>(p)); }

template <class Bits> struct SignedOf { using type = int32_t; };
template <> struct SignedOf<uint16_t> { using type = int16_t; };

// A group of a tile as bit patterns, columns padded with zeros. Rows that do not exist, that are not
// finite or whose magnitudes are all below 1e-36 are zeros.
template <class Bits>
struct Group {
  const Bits* row[kTile];
  float amax[kTile];  // largest magnitude: NaN where a value is not finite, 0 below 1e-36
  float sign[kTile];  // of what has it; positive where both signs do
  Bits padded[kTile][kMaxGroup];
};

template <class Bits>
static void load_group(Group<Bits>& g, const Bits* w, int64_t rows, int64_t stride, int64_t have,
                       int64_t group) {
  using Signed = typename SignedOf<Bits>::type;
  static const Bits zeros[kMaxGroup] = {};
  Bits top[kTile], bottom[kTile];
  for (int64_t r = 0; r < kTile; ++r) {
    const Bits* p = r < rows ? w + r * stride : zeros;
    if (r < rows && have < group) {
      for (int64_t k = 0; k < group; ++k) g.padded[r][k] = k < have ? p[k] : 0;
      p = g.padded[r];
    }
    g.row[r] = p;
    // Signed integers order positive floats, unsigned ones negative floats by their magnitude.
    Signed positive = 0;
    Bits negative = (Bits)(Bits(1) << (8 * sizeof(Bits) - 1));
    for (int64_t k = 0; k < group; ++k) {
      positive = (Signed)p[k] > positive ? (Signed)p[k] : positive;
      negative = p[k] > negative ? p[k] : negative;
    }
    top[r] = (Bits)positive;
    bottom[r] = negative;
  }
  const f32 above = load16(top), below = absolute(load16(bottom));
  f32 amax = choose_greater(below, above, below, above);
  amax = choose_greater(set(1e-36f), amax, zero(), amax);
  // 0 · inf and 0 · NaN are NaN.
  store(g.amax, fma(above, zero(), fma(below, zero(), amax)));
  store(g.sign, choose_greater(below, above, set(-1), set(1)));
  for (int64_t r = 0; r < kTile; ++r)
    if (!(g.amax[r] > 0)) g.row[r] = zeros;
}

// Bytes of a group by row, and turned: block k / 4 holds columns k .. k + 3 of 16 rows.
struct Bytes {
  alignas(64) uint8_t row[kTile][kMaxGroup];
  u8 block[kMaxGroup / 4], magnitude[kMaxGroup / 4];
};

static void turn(Bytes& b, int64_t group) {
  for (int64_t k = 0; k < group; k += 16) transpose4(&b.row[0][k], kMaxGroup, &b.block[k / 4]);
}

// Levels (with the sign of x) that x = -127 .. 127 is nearest to when 127 comes to lie at a clip.
static void clip_levels(int clip, int8_t* to) {
  for (int x = -128; x < 128; ++x) {
    int code = 0;
    while (code < 15 && 2 * x * clip >= 127 * (int)(ling_levels[code] + ling_levels[code + 1])) ++code;
    to[x + 128] = (int8_t)(x < 0 ? -ling_levels[code] : ling_levels[code]);
  }
}

struct Search {
  Nearest nearest[kClips];
  Search() {
    for (int c = 0; c < kClips; ++c) {
      int8_t levels[256];
      clip_levels(clip_of[c], levels);
      nearest[c] = make_nearest(levels);
    }
  }
};

// Sums over a group of h · x · q and h · q² for the levels q of one clip.
static void weighed_sums(const Nearest& nearest, const Bytes& x, const float* h, int64_t group,
                         f32* num, f32* den) {
  float n[kTile] = {}, d[kTile] = {};
  for (int64_t k = 0; k < group; k += 4) {
    uint8_t xs[64], qs[64];
    store_u8(xs, x.block[k / 4]);
    store_u8(qs, nearest_level(nearest, x.block[k / 4]));
    for (int64_t j = 0; j < 4; ++j)
      for (int64_t r = 0; r < kTile; ++r) {
        const float v = (float)(int8_t)xs[4 * r + j], q = (float)(int8_t)qs[4 * r + j];
        n[r] += h[k + j] * (v < 0 ? -v : v) * q;
        d[r] += h[k + j] * q * q;
      }
  }
  *num = load(n);
  *den = load(d);
}

// The scale, in units of amax / 127, that minimises the weighed squared error over the clips: each
// takes the nearest levels and then the scale that fits them best. x holds a group in 8 bits, whose
// rounding costs less than a bfloat16 scale does. The error is sum h · x² - num² / den.
static f32 best_scale(const Search& search, const Bytes& x, const float* h, int64_t group) {
  f32 best = set(-1), scale = zero();
  for (const Nearest& nearest : search.nearest) {
    f32 num, den;
    if (h) {
      weighed_sums(nearest, x, h, group, &num, &den);
    } else {
      i32 products = zero_i32(), squares = zero_i32();
      for (int64_t b = 0; b < group / 4; ++b) {
        const u8 q = nearest_level(nearest, x.block[b]);
        products = dot_bytes(products, x.magnitude[b], q);
        squares = dot_bytes(squares, magnitudes(q), magnitudes(q));
      }
      num = to_f32(products);
      den = to_f32(squares);
    }
    const f32 fit = div(num, den), gain = mul(num, fit);
    // With most weight on small values a fit may be next to nothing, or NaN without any: neither.
    const f32 counts = choose_greater(absolute(fit), set(0.5f), gain, set(-2));
    scale = choose_greater(counts, best, fit, scale);
    best = choose_greater(counts, best, counts, best);
  }
  return scale;
}

template <class Bits>
static void pack_i4(int64_t group, int64_t rows, int64_t cols, const Bits* w, int64_t stride,
                    const float* importance, uint8_t* data, uint16_t* scales) {
  static const Search search;
  static const Codes codes = make_codes(ling_levels);
  Group<Bits> g;
  Bytes b;
  float h[kMaxGroup], inverse[kTile];
  for (int64_t start = 0; start < cols; start += group, scales += kTile) {
    const int64_t left = cols - start, have = left < group ? left : group;
    load_group(g, w + start, rows, stride, have, group);
    const f32 amax = load(g.amax), unit = mul(load(g.sign), amax);
    store(inverse, div(set(127), unit));
    for (int64_t r = 0; r < kTile; ++r) {
      const f32 factor = set(g.amax[r] > 0 ? inverse[r] : 0);
      for (int64_t k = 0; k < group; k += 16)
        store_i8((int8_t*)&b.row[r][k], round_i32(mul(load16(g.row[r] + k), factor)));
    }
    turn(b, group);
    for (int64_t k = 0; k < group / 4; ++k) b.magnitude[k] = magnitudes(b.block[k]);
    for (int64_t k = 0; importance && k < group; ++k) h[k] = k < have ? importance[start + k] : 0;
    f32 scale = best_scale(search, b, importance ? h : nullptr, group);
    scale = mul(scale, div(unit, set(127)));
    store_bf16(scales, choose_greater(amax, zero(), scale, amax));  // NaN stays NaN
    scale = load_bf16(scales);
    store(inverse, choose_greater(absolute(scale), zero(), div(set(1), scale), zero()));
    for (int64_t r = 0; r < kTile; ++r) {
      const f32 factor = set(inverse[r]);
      for (int64_t k = 0; k < group; k += 32) {
        const f32 low = mul(load16(g.row[r] + k), factor);
        const f32 high = k + 16 < group ? mul(load16(g.row[r] + k + 16), factor) : zero();
        store_codes(&b.row[r][k], codes, low, high);
      }
    }
    turn(b, group);
    for (int64_t k = 0; k < group; k += 8)
      store_u8(data + (start + k) * 8, join_codes(b.block[k / 4], b.block[k / 4 + 1]));
  }
}

template <class Bits>
static void pack_i8(int64_t group, int64_t rows, int64_t cols, const Bits* w, int64_t stride,
                    uint8_t* data, uint16_t* scales) {
  Group<Bits> g;
  Bytes b;
  float inverse[kTile];
  for (int64_t start = 0; start < cols; start += group, scales += kTile) {
    const int64_t left = cols - start;
    load_group(g, w + start, rows, stride, left < group ? left : group, group);
    store_bf16(scales, div(load(g.amax), set(127)));
    const f32 scale = load_bf16(scales);
    store(inverse, choose_greater(scale, zero(), div(set(1), scale), zero()));
    for (int64_t r = 0; r < kTile; ++r) {
      const f32 factor = set(inverse[r]);
      for (int64_t k = 0; k < group; k += 16) {
        const f32 v = mul(load16(g.row[r] + k), factor);
        store_i8((int8_t*)&b.row[r][k], round_i32(maximum(set(-127), minimum(set(127), v))));
      }
    }
    turn(b, group);
    for (int64_t k = 0; k < group; k += 4)
      store_u8(data + (start + k) * 16, flip_sign(b.block[k / 4]));
  }
}

static inline float round_bf16(float x, uint16_t* bits) {
  uint16_t t[16];
  float f[16];
  store_bf16(t, set(x));
  store(f, load_bf16(t));
  *bits = t[0];
  return f[0];
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

template <class Bits>
static void pack_integers(const ling_matrix& m, const Bits* w, int64_t stride,
                          const float* importance, int64_t tile, uint8_t* data, uint16_t* scales) {
  const int64_t rows = m.rows - tile * kTile;
  w += tile * kTile * stride;
  if (m.kind == LING_I4)
    pack_i4(m.group, rows, m.cols, w, stride, importance, data, scales);
  else
    pack_i8(m.group, rows, m.cols, w, stride, data, scales);
}

static void pack(int32_t kind, int64_t group, int64_t rows, int64_t cols, const void* w, bool bf16,
                 int64_t stride, const float* importance, int64_t begin, int64_t end, void* data,
                 void* scales) {
  const ling_matrix m = {kind, (int32_t)group, rows, cols, data, scales};
  for (int64_t tile = begin; tile < end; ++tile) {
    uint8_t* to = static_cast<uint8_t*>(data) + tile * tile_bytes(m);
    uint16_t* s = static_cast<uint16_t*>(scales) + tile * tile_scales(m);
    if (kind == LING_BF16)
      pack_bf16(rows, cols, w, bf16, stride, tile, reinterpret_cast<uint16_t*>(to));
    else if (bf16)
      pack_integers(m, static_cast<const uint16_t*>(w), stride, importance, tile, to, s);
    else
      pack_integers(m, static_cast<const uint32_t*>(w), stride, importance, tile, to, s);
  }
}
