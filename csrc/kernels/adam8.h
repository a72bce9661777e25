// AdamW with moments of one byte, in blocks of 256 with a scale each: ops/adam8.py has the
// definition, which this equals to the bit. A byte is a code: an entry of a map of 256 values, and
// the code of x is the number of limits (borders between neighbours) that are below x.

// The place of a magnitude among codes as seven lines, one per decade of the map, of which the
// lowest counts: from 1 below the code up to the code itself, so that one limit decides.
struct CodeLines {
  float slope[7], start[7];
};
static inline CodeLines make_lines(bool is_signed) {
  CodeLines r;
  double low = 1e-7;
  int first = 1;  // the first code of a decade
  for (int i = 0; i < 7; ++i) {
    const int count = is_signed ? 1 << i : 2 << i;
    const double slope = count / (9 * low);
    // Limits are up to 0.2 above a whole number where decades meet, 0.25 below it before 1: 0.4
    // lower all are between the same two whole numbers. The rest makes rounding a rounding down.
    r.slope[i] = (float)slope, r.start[i] = (float)(first - low * slope - 0.4 - 0.5);
    first += count, low *= 10;
  }
  return r;
}
static inline f32 line_of(const CodeLines& l, f32 magnitude) {
  f32 y = fma(magnitude, set(l.slope[0]), set(l.start[0]));
  for (int i = 1; i < 7; ++i) y = minimum(y, fma(magnitude, set(l.slope[i]), set(l.start[i])));
  return maximum(y, zero());
}

// Codes of a block; x are values by their scale afterwards.
static inline void estimate_codes(const CodeLines& l, bool is_signed, float* x, float scale,
                                  uint8_t* codes) {
  const f32 by = set(scale > 0 ? scale : 1);
  for (int64_t i = 0; i < kAdam8Block; i += 16) {
    const f32 value = load(x + i), share = div(value, by);
    f32 place = line_of(l, absolute(share));
    if (is_signed)
      place = maximum(choose_greater(zero(), value, sub(set(126), place), add(set(127), place)),
                      zero());
    store(x + i, share);
    store_i8((int8_t*)codes + i, round_i32(place));
  }
}
static inline void settle_codes(const Floats256& limits, const float* x, uint8_t* codes) {
  for (int64_t i = 0; i < kAdam8Block; i += 64) {
    f32 limit[4];
    look_up(limits, codes + i, limit);
    for (int64_t j = 0; j < 4; ++j) raise_codes(codes + i + 16 * j, load(x + i + 16 * j), limit[j]);
  }
}

struct Adam8Tables {
  Floats256 map1, limits1, map2, limits2;
  CodeLines lines1, lines2;
};

struct Adam8Block {
  float* p;
  const float* g;
  uint8_t *codes1, *codes2;
  float *absmax1, *absmax2;
};

// An element whose second moment would not be finite keeps its parameter, and its moments become 0.
static inline void adam8_block(const ling_adam8_shard& s, const Adam8Tables& t,
                               const Adam8Block& b) {
  alignas(64) float m[kAdam8Block], v[kAdam8Block];
  const f32 infinity = set(__builtin_inff());
  const f32 scale1 = set(*b.absmax1), scale2 = set(*b.absmax2);
  const f32 beta1 = set(s.beta1), beta2 = set(s.beta2);
  const f32 rest1 = set(1 - s.beta1), rest2 = set(1 - s.beta2);
  f32 top1 = zero(), top2 = zero();
  for (int64_t i = 0; i < kAdam8Block; i += 64) {
    f32 old1[4], old2[4];
    look_up(t.map1, b.codes1 + i, old1);
    look_up(t.map2, b.codes2 + i, old2);
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t at = i + 16 * j;
      const f32 g = load(b.g + at), p = load(b.p + at);
      f32 one = add(mul(beta1, mul(old1[j], scale1)), mul(rest1, g));
      f32 two = add(mul(beta2, mul(old2[j], scale2)), mul(mul(rest2, g), g));
      const f32 ratio = div(one, add(root(two), set(s.eps)));
      const f32 moved = mul(add(p, mul(set(s.step), ratio)), set(s.keep));
      store(b.p + at, choose_greater(infinity, two, moved, p));
      one = choose_greater(infinity, two, one, zero());
      two = choose_greater(infinity, two, two, zero());
      store(m + at, one), store(v + at, two);
      top1 = maximum(absolute(one), top1), top2 = maximum(two, top2);
    }
  }
  *b.absmax1 = reduce_max(top1), *b.absmax2 = reduce_max(top2);
  estimate_codes(t.lines1, true, m, *b.absmax1, b.codes1);
  estimate_codes(t.lines2, false, v, *b.absmax2, b.codes2);
  settle_codes(t.limits1, m, b.codes1);
  settle_codes(t.limits2, v, b.codes2);
}

// Elements [first, first + n) of a shard; `first` is a multiple of the block.
static void adam8(const ling_adam8_shard& s, int64_t first, int64_t n, const float* tables) {
  const Adam8Tables t = {make_floats256(tables),
                         make_floats256(tables + 256),
                         make_floats256(tables + 512),
                         make_floats256(tables + 768),
                         make_lines(true),
                         make_lines(false)};
  for (int64_t i = first; i < first + n; i += kAdam8Block) {
    const int64_t block = i / kAdam8Block, left = first + n - i;
    const Adam8Block b = {s.p + i,      s.g + i,           s.codes1 + i,
                          s.codes2 + i, s.absmax1 + block, s.absmax2 + block};
    if (left >= kAdam8Block) {
      adam8_block(s, t, b);
      continue;
    }
    alignas(64) float p[kAdam8Block] = {}, g[kAdam8Block] = {};
    alignas(64) uint8_t codes1[kAdam8Block], codes2[kAdam8Block] = {};
    memset(codes1, 127, sizeof codes1);
    const size_t some = (size_t)left;
    memcpy(p, b.p, 4 * some), memcpy(g, b.g, 4 * some);
    memcpy(codes1, b.codes1, some), memcpy(codes2, b.codes2, some);
    adam8_block(s, t, {p, g, codes1, codes2, b.absmax1, b.absmax2});
    memcpy(b.p, p, 4 * some), memcpy(b.codes1, codes1, some), memcpy(b.codes2, codes2, some);
  }
}

// The blocks of n values; absmax is the largest magnitude of each, or is taken as it is (`given`).
// Values that are not finite get some code.
static void quantise8(const float* x, int64_t n, const float* map, bool is_signed, bool given,
                      uint8_t* codes, float* absmax) {
  const CodeLines lines = make_lines(is_signed);
  const Floats256 limits = make_floats256(map + 256);
  for (int64_t i = 0; i < n; i += kAdam8Block) {
    const int64_t some = n - i < kAdam8Block ? n - i : kAdam8Block;
    alignas(64) float values[kAdam8Block] = {};
    alignas(64) uint8_t found[kAdam8Block];
    memcpy(values, x + i, (size_t)some * 4);
    f32 top = zero();
    for (int64_t j = 0; j < kAdam8Block; j += 16) top = maximum(absolute(load(values + j)), top);
    if (!given) absmax[i / kAdam8Block] = reduce_max(top);
    const f32 most = set(absmax[i / kAdam8Block]);
    for (int64_t j = 0; j < kAdam8Block; j += 16)
      store(values + j, maximum(minimum(load(values + j), most), sub(zero(), most)));
    estimate_codes(lines, is_signed, values, absmax[i / kAdam8Block], found);
    settle_codes(limits, values, found);
    memcpy(codes + i, found, (size_t)some);
  }
}

static void dequantise8(const uint8_t* codes, const float* absmax, int64_t n, const float* map,
                        float* out) {
  const Floats256 values = make_floats256(map);
  for (int64_t i = 0; i < n; i += 64) {
    alignas(64) uint8_t some[64] = {};
    alignas(64) float found[64];
    const int64_t left = n - i < 64 ? n - i : 64;
    memcpy(some, codes + i, (size_t)left);
    f32 x[4];
    look_up(values, some, x);
    const f32 scale = set(absmax[i / kAdam8Block]);
    for (int64_t j = 0; j < 4; ++j) store(found + 16 * j, mul(x[j], scale));
    memcpy(out + i, found, (size_t)left * 4);
  }
}
