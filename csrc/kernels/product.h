// Matrix products. Register blocks of MB rows of activations times NT tiles of 16 outputs.
//
// Whatever the block, an output is the same sum in the same order: exact integers inside a group,
// then one fused multiply-add per group (or per pair of columns in bfloat16). So a row's bits do
// not depend on the rows beside it, nor on the instruction set for the integer formats.

// Unpacked bytes, 4-bit codes, planes of 3-bit codes, bfloat16 pairs; E4M3 bytes, and the pairs
// they were widened to.
enum class Form { kBytes, kCodes, kPlanes, kPairs, kFP8, kWideFP8 };
template <Form form>
struct Is {
  static constexpr Form value = form;
};

constexpr int kRowBlock = 6, kTileBlock = 2;
constexpr int kCodesRowBlock = 8;  // more rows share what a block unpacks
constexpr int kFewRows = 3;        // up to this many, a product waits for its weights
constexpr int kManyBlocks = 8;     // of rows: a burst of prefetches before each is short
// Bytes ahead, in one stream and in each of two: the hardware's own stops at every 4 KiB.
constexpr int64_t kFarAhead = 8192, kPrefetch = 4096;

// What a block of rows prefetches on its way through NT tiles side by side. Where several blocks
// walk through the same tiles, memory would be idle in all but the first: each prefetches its share
// of the next NT tiles, evenly. A single block is ahead of itself.
struct Fetch {
  int64_t left;                    // bytes from the first tile on to the last one of the product,
  int64_t jump;                    // and from there to what is read then
  const uint8_t* share = nullptr;  // of this block; null: there is one
  int64_t pace = 64;               // bytes of the share for each 64 bytes of a tile

  // How far ahead, now at byte `at` of each tile: further on in it, or in the next NT.
  template <int NT>
  int64_t ahead(int64_t at, int64_t tile) const {
    constexpr int64_t far = NT == 1 ? kFarAhead : kPrefetch;
    int64_t to = at + (NT == 1 || far < tile ? far : tile);
    if (NT > 1 && to >= tile) to += (NT - 1) * tile;
    return (to < left ? to : to + jump) - at;
  }
};

// Values of E4M3 times rows of bfloat16: a group is summed on its own, then scaled.
template <int MB, int NT, Form form>
static inline void multiply_fp8(const uint8_t* const* data, const void* const* scales,
                                int64_t groups, int64_t group, const Row* x, const Fetch& fetch,
                                f32 (&acc)[MB][NT]) {
  const uint32_t* xp[MB];
  for (int m = 0; m < MB; ++m) xp[m] = static_cast<const uint32_t*>(x[m].values);
  const int64_t steps = group / 4;  // of 4 columns
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t next = fetch.ahead<NT>(64 * g * steps, 64 * groups * steps);
    f32 d[MB][NT];
    for (int m = 0; m < MB; ++m)
      for (int t = 0; t < NT; ++t) d[m][t] = zero();
    for (int64_t s = g * steps; s < (g + 1) * steps; ++s)
      for (int t = 0; t < NT; ++t) {
        b16 first, last;
        if constexpr (form == Form::kFP8) {
          const uint8_t* p = data[t] + 64 * s;
          prefetch(p + next);
          widen_fp8(load_u8(p), &first, &last);
        } else {
          const uint16_t* p = reinterpret_cast<const uint16_t*>(data[t]) + 64 * s;
          first = load_pairs(p), last = load_pairs(p + 32);
        }
        for (int m = 0; m < MB; ++m) {
          d[m][t] = dot2(d[m][t], first, xp[m][2 * s]);
          d[m][t] = dot2(d[m][t], last, xp[m][2 * s + 1]);
        }
      }
    for (int t = 0; t < NT; ++t) {
      const f32 scale = set(static_cast<const float*>(scales[t])[g]);
      for (int m = 0; m < MB; ++m) acc[m][t] = fma(d[m][t], scale, acc[m][t]);
    }
  }
}

// Of LING_I3 the codes of columns 8 i .. 8 i + 7 of 32, in halves of bytes as LING_I4 has them.
template <int i>
static inline u8 codes_of_planes(const uint8_t* p) {
  return join_planes<i>(load_u8(p + i / 2 * 64), load_u8(p + 128));
}

// Columns 4 s .. 4 s + 7 of a block of 32, of which they are the eight number i.
template <int i, int MB, int NT>
static inline void dot_planes(const uint8_t* const* p, const int32_t* const* xq, int64_t s,
                              const Levels& levels, i32 (&d)[MB][NT]) {
  u8 low[NT], high[NT];
  for (int t = 0; t < NT; ++t) {
    const u8 v = codes_of_planes<i>(p[t]);
    low[t] = low_codes(levels, v), high[t] = high_codes(levels, v);
  }
  for (int m = 0; m < MB; ++m) {
    for (int t = 0; t < NT; ++t) d[m][t] = dot4(d[m][t], low[t], xq[m][s]);
    for (int t = 0; t < NT; ++t) d[m][t] = dot4(d[m][t], high[t], xq[m][s + 1]);
  }
}

template <int MB, int NT, Form form>
static inline void multiply(const uint8_t* const* data, const void* const* scales, int64_t groups,
                            int64_t group, const Row* x, const Levels& levels, const Fetch& fetch,
                            f32 (&acc)[MB][NT]) {
  for (int m = 0; m < MB; ++m)
    for (int t = 0; t < NT; ++t) acc[m][t] = zero();
  if constexpr (form == Form::kFP8 || form == Form::kWideFP8)
    return multiply_fp8<MB, NT, form>(data, scales, groups, group, x, fetch, acc);
  if constexpr (form == Form::kPairs) {
    const uint32_t* xp[MB];
    for (int m = 0; m < MB; ++m) xp[m] = static_cast<const uint32_t*>(x[m].values);
    for (int64_t k = 0; k < groups; ++k) {
      const int64_t next = 64 * k + fetch.ahead<NT>(64 * k, 64 * groups);
      for (int t = 0; t < NT; ++t) {
        const uint16_t* w = reinterpret_cast<const uint16_t*>(data[t]) + 32 * k;
        if (MB <= kFewRows) prefetch(data[t] + next);
        const b16 pair = load_pairs(w);
        for (int m = 0; m < MB; ++m) acc[m][t] = dot2(acc[m][t], pair, xp[m][k]);
      }
    }
    return;
  }
  const int32_t* xq[MB];
  for (int m = 0; m < MB; ++m) xq[m] = static_cast<const int32_t*>(x[m].values);
  const int64_t steps = group / 4;  // of 4 columns
  for (int64_t g = 0; g < groups; ++g) {
    i32 d[MB][NT];
    for (int m = 0; m < MB; ++m)
      for (int t = 0; t < NT; ++t) d[m][t] = dot_begin(x[m].sums[g]);
    // Bytes of 4 columns.
    constexpr int64_t kStep = form == Form::kCodes ? 32 : form == Form::kPlanes ? 24 : 64;
    const int64_t at = kStep * g * steps, tile = kStep * groups * steps;
    const int64_t next = fetch.ahead<NT>(at, tile);
    // Weights of all tiles first, then row by row: so every value of a row is spread out once.
    if constexpr (form == Form::kCodes) {
      // Several blocks have at least half of the most rows each.
      const bool shares = MB >= kCodesRowBlock / 2 && fetch.share;
      const int64_t pace = shares ? fetch.pace : 64, apart = tile / 64 * pace;
      const uint8_t* to = shares ? fetch.share + at / 64 * pace : data[0] + at + next;
      for (int64_t s = g * steps; s < (g + 1) * steps; s += 2) {
        u8 low[NT], high[NT];
        for (int t = 0; t < NT; ++t) {
          const uint8_t* p = data[t] + 32 * s;
          if constexpr (MB < kCodesRowBlock / 2)
            prefetch(p + next);
          else
            prefetch(to + t * apart);
          const u8 v = load_u8(p);
          low[t] = low_codes(levels, v), high[t] = high_codes(levels, v);
        }
        to += pace;
        for (int m = 0; m < MB; ++m) {
          for (int t = 0; t < NT; ++t) d[m][t] = dot4(d[m][t], low[t], xq[m][s]);
          for (int t = 0; t < NT; ++t) d[m][t] = dot4(d[m][t], high[t], xq[m][s + 1]);
        }
      }
    } else if constexpr (form == Form::kPlanes) {
      for (int64_t s = g * steps; s < (g + 1) * steps; s += 8) {
        const uint8_t* p[NT];
        for (int t = 0; t < NT; ++t) {
          p[t] = data[t] + 24 * s;
          for (int plane = 0; plane < 3; ++plane) prefetch(p[t] + next + 64 * plane);
        }
        dot_planes<0>(p, xq, s, levels, d), dot_planes<1>(p, xq, s + 2, levels, d);
        dot_planes<2>(p, xq, s + 4, levels, d), dot_planes<3>(p, xq, s + 6, levels, d);
      }
    } else {
      for (int64_t s = g * steps; s < (g + 1) * steps; ++s) {
        u8 w[NT];
        for (int t = 0; t < NT; ++t) {
          const uint8_t* p = data[t] + 64 * s;
          if (MB <= kFewRows) prefetch(p + next);
          w[t] = load_u8(p);
        }
        for (int m = 0; m < MB; ++m)
          for (int t = 0; t < NT; ++t) d[m][t] = dot4(d[m][t], w[t], xq[m][s]);
      }
    }
    for (int t = 0; t < NT; ++t) {
      const f32 ws = load_bf16(static_cast<const uint16_t*>(scales[t]) + 16 * g);
      for (int m = 0; m < MB; ++m)
        acc[m][t] = fma(to_f32(d[m][t]), mul(ws, set(x[m].scales[g])), acc[m][t]);
    }
  }
}

// Write 16 finished columns of row m through the epilogue.
static inline void finish(const Product& p, int64_t m, int64_t tile, f32 v) {
  const int64_t n = tile * kTile, left = p.w.rows - n;
  if (p.bias) v = add(v, load_part(p.bias + n, left));
  float* y = p.y[m] + n;
  if (p.epilogue == Epilogue::kAdd) v = add(load_part(y, left), v);
  if (p.epilogue == Epilogue::kScaledAdd) v = fma(v, set(p.weight[m]), load_part(y, left));
  store_part(y, v, left);
}

// The same for whole tiles without a bias, as nearly all are: what is to be done is asked once a
// row.
template <int NT>
static inline void finish_whole(const Product& p, int64_t m, int64_t tile, const f32 (&v)[NT]) {
  float* y = p.y[m] + tile * kTile;
  if (p.epilogue == Epilogue::kStore)
    for (int t = 0; t < NT; ++t) store(y + t * kTile, v[t]);
  if (p.epilogue == Epilogue::kAdd)
    for (int t = 0; t < NT; ++t) store(y + t * kTile, add(load(y + t * kTile), v[t]));
  if (p.epilogue == Epilogue::kScaledAdd)
    for (int t = 0; t < NT; ++t)
      store(y + t * kTile, fma(v[t], set(p.weight[m]), load(y + t * kTile)));
}

static inline f32 swiglu(f32 gate, f32 up) { return mul(mul(gate, sigmoid16(gate)), up); }

// Few rows of integers are bound by memory, which is faster with one stream than with two; sums in
// floating point wait for each other, and two streams hide that.
template <int MB, int NT, Form form>
static inline void multiply_tiles(const Product& p, const uint8_t* const* data,
                                  const void* const* scales, const Row* x, const Levels& levels,
                                  const Fetch& fetch, f32 (&acc)[MB][NT]) {
  const int64_t groups = padded_cols(p.w) / p.w.group, group = p.w.group;
  constexpr bool integers = form == Form::kCodes || form == Form::kBytes;
  if constexpr (integers && MB <= kFewRows && NT > 1) {
    Fetch rest = fetch;
    for (int t = 0; t < NT; ++t, rest.left -= tile_bytes(p.w)) {
      f32 one[MB][1];
      multiply<MB, 1, form>(data + t, scales + t, groups, group, x, levels, rest, one);
      for (int m = 0; m < MB; ++m) acc[m][t] = one[m][0];
    }
  } else {
    multiply<MB, NT, form>(data, scales, groups, group, x, levels, fetch, acc);
  }
}

template <int MB, int NT, Form form>
static inline void block(const Product& p, const uint8_t* const* data, const void* const* scales,
                         int64_t tile, int64_t m, const Levels& levels, const Fetch& fetch) {
  f32 acc[MB][NT];
  multiply_tiles<MB, NT, form>(p, data, scales, p.x + m, levels, fetch, acc);
  if (p.low_rank)
    for (int i = 0; i < MB; ++i)
      for (int t = 0; t < NT; ++t) acc[i][t] = add_low_rank(p, m + i, tile + t, acc[i][t]);
  if (p.epilogue == Epilogue::kSwiGLU) {
    // NT is 2 here: a gate tile and its up tile.
    for (int i = 0; i < MB; ++i)
      store(p.y[m + i] + tile / 2 * kTile, swiglu(acc[i][0], acc[i][NT - 1]));
    return;
  }
  if (!p.bias && (tile + NT) * kTile <= p.w.rows) {
    for (int i = 0; i < MB; ++i) finish_whole<NT>(p, m + i, tile, acc[i]);
    return;
  }
  for (int i = 0; i < MB; ++i)
    for (int t = 0; t < NT; ++t) finish(p, m + i, tile + t, acc[i][t]);
}

// A block of n rows, MB to `most`.
template <int MB, int most, int NT, Form form, class... Rest>
static inline void block_of(int64_t n, const Rest&... rest) {
  if (MB == most || n == MB) return block<MB, NT, form>(rest...);
  if constexpr (MB < most) block_of<MB + 1, most, NT, form>(n, rest...);
}

// All rows in blocks of nearly equal size, for tiles of a product that ends before `end`.
template <int NT, Form form>
static void all_rows(const Product& p, const uint8_t* const* data, const void* const* scales,
                     int64_t tile, int64_t end, const Levels& levels) {
  constexpr int most = form == Form::kCodes ? kCodesRowBlock : kRowBlock;
  const uint8_t *from = tile_data(p.w, tile), *last = tile_data(p.w, end);
  Fetch fetch = {last - from, p.next ? p.next - last : 0};
  if (p.m <= most)
    return block_of<1, most, NT, form>(p.m, p, data, scales, tile, int64_t(0), levels, fetch);
  const int64_t bytes = NT * tile_bytes(p.w), blocks = ceil_div(p.m, most), share = bytes / blocks;
  fetch.share = from + bytes + (bytes < fetch.left ? 0 : fetch.jump);
  fetch.pace = ceil_div(64, blocks);
  for (int64_t m = 0, i = blocks; i; --i, fetch.share += share) {
    const int64_t n = ceil_div(p.m - m, i);
    if (form == Form::kBytes && blocks > kManyBlocks)
      for (int64_t b = 0; b < share; b += 64) prefetch(fetch.share + b);
    block_of<1, most, NT, form>(n, p, data, scales, tile, m, levels, fetch);
    m += n;
  }
}

// Codes of one tile to bytes, once for all rows.
static void expand(const uint8_t* codes, int64_t bytes, const Levels& levels, uint8_t* out) {
  for (int64_t i = 0; i < bytes; i += 64) {
    const u8 v = load_u8(codes + i);
    store_u8(out + 2 * i, low_codes(levels, v));
    store_u8(out + 2 * i + 64, high_codes(levels, v));
  }
}

template <int i>
static inline void expand_eight(const uint8_t* planes, const Levels& levels, uint8_t* out) {
  const u8 v = codes_of_planes<i>(planes);
  store_u8(out + 128 * i, low_codes(levels, v));
  store_u8(out + 128 * i + 64, high_codes(levels, v));
}
static void expand_planes(const uint8_t* planes, int64_t bytes, const Levels& levels,
                          uint8_t* out) {
  for (int64_t i = 0; i < bytes; i += 192, out += 512) {
    const uint8_t* p = planes + i;
    expand_eight<0>(p, levels, out), expand_eight<1>(p, levels, out);
    expand_eight<2>(p, levels, out), expand_eight<3>(p, levels, out);
  }
}

// E4M3 values of one tile to bfloat16, once for all rows.
static void widen(const uint8_t* values, int64_t bytes, uint8_t* out) {
  for (int64_t i = 0; i < bytes; i += 64) {
    b16 first, last;
    prefetch(values + i + kPrefetch);
    widen_fp8(load_u8(values + i), &first, &last);
    uint16_t* to = reinterpret_cast<uint16_t*>(out + 2 * i);
    store_pairs(to, first), store_pairs(to + 32, last);
  }
}

template <int NT>
static void some_tiles(const Product& p, int64_t tile, int64_t end, uint8_t* scratch,
                       const Levels& levels) {
  const uint8_t* data[NT];
  const void* scales[NT];
  const int64_t bytes = tile_bytes(p.w);
  for (int t = 0; t < NT; ++t) {
    data[t] = tile_data(p.w, tile + t);
    scales[t] = static_cast<const uint8_t*>(p.w.scales) + (tile + t) * tile_scale_bytes(p.w);
  }
  const auto rows = [&](auto form) {
    all_rows<NT, decltype(form)::value>(p, data, scales, tile, end, levels);
  };
  if (p.w.format == LING_BF16) return rows(Is<Form::kPairs>{});
  if (p.w.format == LING_I8) return rows(Is<Form::kBytes>{});
  const bool fp8 = p.w.format == LING_FP8;
  const bool planes = p.w.format == LING_I3;
  if (planes && p.m <= kRowsOfCodes) return rows(Is<Form::kPlanes>{});
  if (!fp8 && p.m <= kRowsOfCodes) return rows(Is<Form::kCodes>{});
  if (fp8 && p.m <= 2 * kRowBlock) return rows(Is<Form::kFP8>{});
  for (int t = 0; t < NT; ++t) {
    uint8_t* out = scratch + t * (fp8 ? 2 : 1) * kTile * padded_cols(p.w);
    if (fp8)
      widen(data[t], bytes, out);
    else
      (planes ? expand_planes : expand)(data[t], bytes, levels, out);
    data[t] = out;
  }
  fp8 ? rows(Is<Form::kWideFP8>{}) : rows(Is<Form::kBytes>{});
}

static const uint8_t* bytes_of_levels(int32_t format) {
  return format == LING_I3 ? kInt3Bytes.value : kInt4Bytes.value;
}

#ifdef __AMX_INT8__
#include "amx.h"
#endif

static void product(const Product& p, int64_t begin, int64_t end, uint8_t* scratch) {
#ifdef __AMX_INT8__
  if (unit_fits(p)) return unit_product(p, begin, end, scratch);
#endif
  const Levels levels = load_levels(bytes_of_levels(p.w.format));
  int64_t tile = begin;
  for (; tile + kTileBlock <= end; tile += kTileBlock)
    some_tiles<kTileBlock>(p, tile, end, scratch, levels);
  for (; tile < end; ++tile) some_tiles<1>(p, tile, end, scratch, levels);
}

// Router logits of 16 experts for RB rows: four sums a row, over columns 0, 1, 2, 3 modulo 4.
template <int RB>
static inline void router_rows(const uint16_t* w, const float* const* x, int64_t cols,
                               float* const* logits, int64_t at) {
  f32 acc[RB][4];
  for (int r = 0; r < RB; ++r)
    for (int j = 0; j < 4; ++j) acc[r][j] = zero();
  for (int64_t k = 0; k < cols; k += 4) {
    prefetch(w + 16 * k + kPrefetch / 2);
    prefetch(w + 16 * k + kPrefetch / 2 + 32);
    for (int j = 0; j < 4; ++j) {
      const f32 v = load_bf16(w + 16 * (k + j));
      for (int r = 0; r < RB; ++r) acc[r][j] = fma(v, set(x[r][k + j]), acc[r][j]);
    }
  }
  for (int r = 0; r < RB; ++r)
    store(logits[r] + at, add(add(acc[r][0], acc[r][1]), add(acc[r][2], acc[r][3])));
}

// Router logits of a tile of experts: float32 all the way, bfloat16 weights; cols a multiple of 4.
static void router(const void* w, int64_t tile, const float* const* x, int64_t m, int64_t cols,
                   float* const* logits) {
  const uint16_t* p = static_cast<const uint16_t*>(w) + tile * kTile * cols;
  int64_t r = 0;
  for (; r + 4 <= m; r += 4) router_rows<4>(p, x + r, cols, logits + r, tile * kTile);
  for (; r < m; ++r) router_rows<1>(p, x + r, cols, logits + r, tile * kTile);
}
