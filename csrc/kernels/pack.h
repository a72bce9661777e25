// Quantising and packing weights: a tile of 16 rows, and as many groups as fit 256 columns, at a
// time; step by step for all of them, so that a group's divisions overlap other work. Rows are
// scaled one by one and then transposed (`transpose4`): a lane holds a row and no sum crosses
// lanes.

constexpr int64_t kSpan = 256;  // the largest group
constexpr int64_t kMaxGroups = kSpan / 16;
constexpr int kClips = 10;
// What a group's largest magnitude may become, in units of the levels: on the side of -127 or on
// that of 105. How these were chosen: docs/concepts/formats.md.
static const int int4_clips[kClips] = {-140, -133, -130, -124, -118, -105, 114, 108, 105, 100};
static const int int3_clips[kClips] = {-185, -170, -160, -150, -145, -135, -125, 155, 145, 135};

static inline f32 load16(const uint16_t* p) { return load_bf16(p); }
static inline f32 load16(const uint32_t* p) { return load(reinterpret_cast<const float*>(p)); }

// Groups of a tile as bit patterns, columns padded with zeros. Groups that do not exist, that are
// not finite or whose magnitudes are all below 1e-36 are zeros.
template <class Bits>
struct Span {
  int64_t group, groups;
  // Both have room for 32 columns where a group ends after 16.
  alignas(64) Bits row[kTile][kSpan + 32];
  // Largest magnitude: NaN where a value is not finite, 0 below 1e-36.
  float amax[kMaxGroups][kTile];
  float sign[kMaxGroups][kTile];  // of what has it; negative where both signs do
  alignas(64) uint8_t bytes[kTile][kSpan + 64];
  u8 block[kSpan / 4];  // transposed: of 16 rows the bytes of columns 4 b .. 4 b + 3

  int64_t cols() const { return group * groups; }
  void transpose() {
    for (int64_t k = 0; k < cols(); k += 16)
      transpose4(&bytes[0][k], sizeof bytes[0], &block[k / 4]);
  }
  // f(to, x, y) for weights times a factor of their row and group, 32 columns in the order of
  // `load32`.
  template <class F>
  void scale(const float (*factors)[kTile], const F& f) {
    for (int64_t r = 0; r < kTile; ++r)
      for (int64_t g = 0; g < groups; ++g) {
        const f32 factor = set(factors[g][r]);
        for (int64_t k = g * group; k < (g + 1) * group; k += 32) {
          const Two v = load32(row[r] + k);
          f(&bytes[r][k], mul(v.x, factor), mul(v.y, factor));
        }
      }
  }
};

// `cols` columns at w, of which `have` exist, and of them `rows` rows.
template <class Bits>
static void load_span(Span<Bits>& s, const Bits* w, int64_t rows, int64_t stride, int64_t have) {
  constexpr int last = 8 * sizeof(Bits) - 1;
  const int64_t cols = s.cols();
  Bits largest[kMaxGroups][kTile];
  for (int64_t r = 0; r < kTile; ++r) {
    Bits* row = s.row[r];
    const int64_t n = r >= rows ? 0 : have < cols ? have : cols;
    // A copy, for rows that are a power of two apart share a set of the cache, which holds fewer.
    if (n) memcpy(row, w + r * stride, (size_t)n * sizeof(Bits));
    memset(row + n, 0, (size_t)(cols + 16 - n) * sizeof(Bits));
    for (int64_t g = 0; g < s.groups; ++g, row += s.group) {
      // With the sign moved behind the magnitude floats are ordered as integers.
      Bits top = 0;
      for (int64_t k = 0; k < s.group; ++k) {
        const Bits rotated = (Bits)(row[k] << 1 | row[k] >> last);
        top = rotated > top ? rotated : top;
      }
      largest[g][r] = (Bits)(top >> 1 | top << last);
    }
  }
  for (int64_t g = 0; g < s.groups; ++g) {
    const f32 top = load16(largest[g]), size = absolute(top);
    store(s.sign[g], choose_greater(zero(), top, set(-1), set(1)));
    // 0 · inf and 0 · NaN are NaN.
    store(s.amax[g], fma(top, zero(), choose_greater(set(1e-36f), size, zero(), size)));
    for (int64_t r = 0; r < kTile; ++r)
      if (!(s.amax[g][r] > 0)) memset(s.row[r] + g * s.group, 0, (size_t)s.group * sizeof(Bits));
  }
}

// Levels (with the sign of x) that x = -127 .. 127 is nearest to when 127 becomes a clip.
static void clip_levels(const int8_t* levels, int count, int clip, int8_t* to) {
  for (int x = -128; x < 128; ++x) {
    int code = 0;
    while (code < count - 1 && 2 * x * clip >= 127 * (levels[code] + levels[code + 1])) ++code;
    to[x + 128] = (int8_t)(x < 0 ? -levels[code] : levels[code]);
  }
}

// What the scale of levels is searched with, and what then finds their codes.
struct Search {
  Nearest nearest[kClips];
  Codes codes;
  Search(const int8_t* levels, int count, const int* clips) : codes(make_codes(levels, count)) {
    for (int c = 0; c < kClips; ++c) {
      int8_t to[256];
      clip_levels(levels, count, clips[c], to);
      nearest[c] = make_nearest(to);
    }
  }
};

// Sums over a group of h · x · q and h · q² for the levels q of one clip.
static void weighed_sums(const Nearest& nearest, const u8* x, const float* h, int64_t group,
                         f32* num, f32* den) {
  float n[kTile] = {}, d[kTile] = {};
  for (int64_t k = 0; k < group; k += 4) {
    uint8_t xs[64], qs[64];
    store_u8(xs, x[k / 4]);
    store_u8(qs, nearest_level(nearest, x[k / 4]));
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

// The same with h = 1, for two clips.
static inline void sums(const Nearest* nearest, const u8* x, int64_t group, f32* num, f32* den) {
  i32 product[2] = {zero_i32(), zero_i32()}, square[2] = {zero_i32(), zero_i32()};
  for (int64_t b = 0; b < group / 4; ++b) {
    const u8 size = magnitudes(x[b]);
    for (int i = 0; i < 2; ++i) {
      const u8 q = nearest_level(nearest[i], x[b]), q_size = magnitudes(q);
      product[i] = dot_bytes(product[i], size, q);
      square[i] = dot_bytes(square[i], q_size, q_size);
    }
  }
  for (int i = 0; i < 2; ++i) num[i] = to_f32(product[i]), den[i] = to_f32(square[i]);
}

// The scale, in units of amax / 127, that minimises the weighed squared error over the clips: each
// takes the nearest levels and then the scale that fits them best. x holds a group in 8 bits, whose
// rounding costs less than a bfloat16 scale does. The error is sum h · x² - num² / den.
static f32 best_scale(const Search& search, const u8* x, const float* h, int64_t group) {
  f32 num[kClips], den[kClips];
  for (int c = 0; c < kClips; c += 2)
    if (!h) sums(search.nearest + c, x, group, num + c, den + c);
  for (int c = 0; h && c < kClips; ++c)
    weighed_sums(search.nearest[c], x, h, group, num + c, den + c);
  f32 best = set(-1), scale = zero();
  for (int c = 0; c < kClips; ++c) {
    const f32 fit = div(num[c], den[c]), gain = mul(num[c], fit);
    // With most weight on small values a fit may be next to nothing, or NaN without any: neither.
    const f32 counts = choose_greater(absolute(fit), set(0.5f), gain, set(-2));
    scale = choose_greater(counts, best, fit, scale);
    best = choose_greater(counts, best, counts, best);
  }
  return scale;
}

// The codes of levels, transposed, and the scales.
template <class Bits>
static void find_codes(Span<Bits>& s, const Search& search, const float* importance, int64_t have,
                       uint16_t* scales) {
  float h[kSpan], factor[kMaxGroups][kTile];
  for (int64_t g = 0; g < s.groups; ++g) {
    const f32 amax = load(s.amax[g]), to_bytes = div(mul(load(s.sign[g]), set(127)), amax);
    store(factor[g], choose_greater(amax, zero(), to_bytes, zero()));
  }
  s.scale(factor, [](uint8_t* p, f32 x, f32 y) { store_bytes(p, x, y); });
  s.transpose();
  for (int64_t k = 0; importance && k < s.cols(); ++k) h[k] = k < have ? importance[k] : 0;
  for (int64_t g = 0; g < s.groups; ++g) {
    const int64_t start = g * s.group;
    const f32 amax = load(s.amax[g]), unit = div(mul(load(s.sign[g]), amax), set(127));
    const f32 found =
        best_scale(search, s.block + start / 4, importance ? h + start : nullptr, s.group);
    // NaN stays NaN.
    store_bf16(scales + g * kTile, choose_greater(amax, zero(), mul(found, unit), amax));
    const f32 scale = load_bf16(scales + g * kTile);
    store(factor[g], choose_greater(absolute(scale), zero(), div(set(1), scale), zero()));
  }
  s.scale(factor, [&](uint8_t* p, f32 x, f32 y) { store_codes(p, search.codes, x, y); });
  s.transpose();
}

template <class Bits>
static void pack_i4(Span<Bits>& s, const float* importance, int64_t have, uint8_t* data,
                    uint16_t* scales) {
  static const Search search(kInt4Levels, 16, int4_clips);
  find_codes(s, search, importance, have, scales);
  for (int64_t k = 0; k < s.cols(); k += 8)
    store_u8(data + k * 8, join_codes(s.block[k / 4], s.block[k / 4 + 1]));
}

template <class Bits>
static void pack_i3(Span<Bits>& s, const float* importance, int64_t have, uint8_t* data,
                    uint16_t* scales) {
  static const Search search(kInt3Levels, 8, int3_clips);
  find_codes(s, search, importance, have, scales);
  for (int64_t k = 0; k < s.cols(); k += 32, data += 192) {
    uint8_t eight[4][64];  // codes of 8 columns, in halves of bytes
    for (int i = 0; i < 4; ++i)
      store_u8(eight[i], join_codes(s.block[k / 4 + 2 * i], s.block[k / 4 + 2 * i + 1]));
    for (int j = 0; j < 64; ++j) {
      const int a = eight[0][j], b = eight[1][j], c = eight[2][j], d = eight[3][j];
      data[j] = (uint8_t)((a & 0x33) | (b & 0x33) << 2);
      data[64 + j] = (uint8_t)((c & 0x33) | (d & 0x33) << 2);
      data[128 + j] = (uint8_t)((a & 0x44) >> 2 | (b & 0x44) >> 1 | (c & 0x44) | (d & 0x44) << 1);
    }
  }
}

template <class Bits>
static void pack_i8(Span<Bits>& s, uint8_t* data, uint16_t* scales) {
  float factor[kMaxGroups][kTile];
  for (int64_t g = 0; g < s.groups; ++g) {
    store_bf16(scales + g * kTile, div(load(s.amax[g]), set(127)));
    const f32 scale = load_bf16(scales + g * kTile);
    store(factor[g], choose_greater(scale, zero(), div(set(1), scale), zero()));
  }
  s.scale(factor, [](uint8_t* p, f32 x, f32 y) {
    const f32 top = set(127), bottom = set(-127);
    store_bytes(p, maximum(bottom, minimum(top, x)), maximum(bottom, minimum(top, y)));
  });
  s.transpose();
  for (int64_t k = 0; k < s.cols(); k += 4) store_u8(data + k * 16, flip_sign(s.block[k / 4]));
}

static void pack_bf16(int64_t rows, int64_t cols, const void* w, bool bf16, int64_t stride,
                      int64_t tile, uint16_t* data) {
  for (int64_t r = 0; r < kTile; ++r) {
    const int64_t row = tile * kTile + r;
    for (int64_t k = 0; k < ceil_div(cols, 2) * 2; ++k) {
      uint16_t bits = 0;
      if (row < rows && k < cols) {
        const int64_t at = row * stride + k;
        bits =
            bf16 ? static_cast<const uint16_t*>(w)[at] : to_bf16(static_cast<const float*>(w)[at]);
      }
      data[k / 2 * 32 + r * 2 + k % 2] = bits;
    }
  }
}

template <class Bits>
static void pack_integers(const ling_matrix& m, const Bits* w, int64_t stride,
                          const float* importance, int64_t tile, uint8_t* data, uint16_t* scales) {
  Span<Bits> s;
  s.group = m.group;
  const int64_t all = ceil_div(m.cols, m.group), most = kSpan / m.group;
  for (int64_t first = 0; first < all; first += most) {
    s.groups = all - first < most ? all - first : most;
    const int64_t start = first * m.group, left = m.cols - start;
    load_span(s, w + tile * kTile * stride + start, m.rows - tile * kTile, stride, left);
    const float* h = importance ? importance + start : nullptr;
    if (m.format == LING_I4)
      pack_i4(s, h, left, data + start * 8, scales + first * kTile);
    else if (m.format == LING_I3)
      pack_i3(s, h, left, data + start * 6, scales + first * kTile);
    else
      pack_i8(s, data + start * 16, scales + first * kTile);
  }
}

static void pack(int32_t format, int64_t group, int64_t rows, int64_t cols, const void* w,
                 bool bf16, int64_t stride, const float* importance, int64_t begin, int64_t end,
                 void* data, void* scales) {
  const ling_matrix m = {format, (int32_t)group, rows, cols, data, scales};
  for (int64_t tile = begin; tile < end; ++tile) {
    uint8_t* to = static_cast<uint8_t*>(data) + tile * tile_bytes(m);
    uint16_t* s = static_cast<uint16_t*>(scales) + tile * tile_scale_bytes(m) / 2;
    if (format == LING_BF16)
      pack_bf16(rows, cols, w, bf16, stride, tile, reinterpret_cast<uint16_t*>(to));
    else if (bf16)
      pack_integers(m, static_cast<const uint16_t*>(w), stride, importance, tile, to, s);
    else
      pack_integers(m, static_cast<const uint32_t*>(w), stride, importance, tile, to, s);
  }
}
