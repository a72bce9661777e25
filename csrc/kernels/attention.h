// Causal attention of some query rows over KV pages: page by page, in order, with an online
// softmax.
//
// A row's arithmetic does not depend on the rows beside it: pages that a row may not see change
// nothing (its weights there are exactly zero, and e^0 = 1 exactly), and of a page that it sees in
// part no value beyond is read for it, for 0 · NaN is NaN.

constexpr int kQueryBlock = 4;

// Keys of the page at `start` that row r may see.
static inline int64_t visible(const AttentionTask& t, int64_t r, int64_t start) {
  const int64_t n = t.first + r / t.group + 1 - start;
  return n < 0 ? 0 : n < kPage ? n : kPage;
}

struct Softmax {
  float top, total;
};

// Updates the running softmax by the first `seen` of 64 scores, leaves their weights in `e` (zero
// from `seen` on) and scales what was summed so far.
static inline void update(Softmax& s, const float* scores, int64_t seen, f32 (&e)[4], float* out,
                          int64_t head_dim) {
  const f32 least = set(-__builtin_inff());
  f32 x[4], top = set(s.top);
  for (int j = 0; j < 4; ++j) {
    x[j] = first_lanes((int)(seen - 16 * j), load(scores + 16 * j), least);
    top = maximum(top, x[j]);
  }
  const float new_top = reduce_max(top);
  f32 sum = zero();
  for (int j = 0; j < 4; ++j) {
    e[j] = first_lanes((int)(seen - 16 * j), exponential(sub(x[j], set(new_top))), zero());
    sum = add(sum, e[j]);
  }
  if (new_top != s.top) {
    float shrink[16];
    store(shrink, exponential(set(s.top - new_top)));
    s.total *= shrink[0];
    for (int64_t i = 0; i < head_dim; i += 16) store(out + i, mul(load(out + i), set(shrink[0])));
    s.top = new_top;
  }
  s.total += reduce_add(sum);
}

// Pages are anywhere in memory, so the hardware cannot guess the next one: while a page's keys are
// read those of the `next` page are fetched, and while its values are read the next one's, a cache
// line for each line that is used.
__attribute__((always_inline)) static inline void fetch(const uint8_t* next, int64_t lines,
                                                        int64_t line) {
  for (int64_t i = 0; i < lines; ++i) prefetch(next + 64 * (lines * line + i));
}

// Pages of bfloat16. Queries and weights are rounded to it; products are summed pair by pair.
struct PagesBF16 {
  const AttentionTask& t;
  uint32_t* q;     // [rows, head_dim / 2]
  uint16_t* p;     // [rows, 64]
  uint32_t* tail;  // a key pair of values of which the second may not be seen
  const uint32_t* tail_of = nullptr;

  PagesBF16(const AttentionTask& task, float* scratch) : t(task) {
    q = reinterpret_cast<uint32_t*>(scratch);
    p = reinterpret_cast<uint16_t*>(q + t.rows * (t.head_dim / 2));
    tail = reinterpret_cast<uint32_t*>(p + t.rows * kPage);
  }

  void query(int64_t r, const float* from, float scale) {
    uint16_t* to = reinterpret_cast<uint16_t*>(q + r * (t.head_dim / 2));
    for (int64_t i = 0; i < t.head_dim; i += 16)
      store_bf16(to + i, mul(load(from + i), set(scale)));
  }

  void weights(int64_t r, const f32 (&e)[4], int64_t, const uint8_t*) {
    for (int j = 0; j < 4; ++j) store_bf16(p + r * kPage + 16 * j, e[j]);
  }

  // to[r][key] for RB rows and the 64 keys of a page.
  template <int RB>
  void scores(int64_t r0, const uint8_t* page, float* to, const uint8_t* next) {
    const uint16_t* k = reinterpret_cast<const uint16_t*>(page);
    const int64_t pairs = t.head_dim / 2;
    f32 acc[RB][4];
    for (int r = 0; r < RB; ++r)
      for (int j = 0; j < 4; ++j) acc[r][j] = zero();
    for (int64_t d = 0; d < pairs; ++d) {
      if (next) fetch(next, 4, d);
      for (int j = 0; j < 4; ++j)
        for (int r = 0; r < RB; ++r)
          acc[r][j] = dot2(acc[r][j], load_pairs(k + 128 * d + 32 * j), q[(r0 + r) * pairs + d]);
    }
    for (int r = 0; r < RB; ++r)
      for (int j = 0; j < 4; ++j) store(to + r * kPage + 16 * j, acc[r][j]);
  }

  // out[r][0 .. 16 · NV) += sum over key pairs of p · v, for RB rows.
  template <int RB, int NV>
  static void channels(const uint32_t* const* w, const uint16_t* v, int64_t head_dim, int64_t pairs,
                       float* const* out, const uint8_t* next) {
    f32 acc[RB][NV];
    for (int r = 0; r < RB; ++r)
      for (int j = 0; j < NV; ++j) acc[r][j] = load(out[r] + 16 * j);
    for (int64_t c = 0; c < pairs; ++c) {
      if (next) fetch(next, 4, c);
      for (int j = 0; j < NV; ++j)
        for (int r = 0; r < RB; ++r)
          acc[r][j] = dot2(acc[r][j], load_pairs(v + 2 * head_dim * c + 32 * j), w[r][c]);
    }
    for (int r = 0; r < RB; ++r)
      for (int j = 0; j < NV; ++j) store(out[r] + 16 * j, acc[r][j]);
  }

  // The pairs [begin, end) of a page for rows r0 on.
  template <int RB>
  void pairs(int64_t r0, const uint16_t* v, int64_t begin, int64_t end, const uint8_t* next) {
    const int64_t K = t.head_dim;
    const uint32_t* w[RB];
    float* at[RB];
    for (int r = 0; r < RB; ++r)
      w[r] = reinterpret_cast<const uint32_t*>(p + (r0 + r) * kPage) + begin;
    for (int64_t i = 0; i < K; i += 32) {
      for (int r = 0; r < RB; ++r) at[r] = t.out[r0 + r] + i;
      // The share of the next page that comes with these channels: 64 values for each of 64 keys.
      const uint8_t* part = next ? next + 2 * kPage * i : nullptr;
      if (i + 64 <= K) {
        channels<RB, 4>(w, v + 2 * i, K, end - begin, at, part);
        i += 32;
      } else {
        channels<RB, 2>(w, v + 2 * i, K, end - begin, at, nullptr);
      }
    }
  }

  template <int RB>
  void values(int64_t r0, int64_t start, const uint8_t* page, const uint8_t* next) {
    const uint16_t* v = reinterpret_cast<const uint16_t*>(page);
    const int64_t K = t.head_dim, shared = visible(t, r0, start) / 2;  // later rows see more
    pairs<RB>(r0, v, 0, shared, next);
    for (int64_t r = r0; r < r0 + RB; ++r) {
      const int64_t seen = visible(t, r, start), whole = seen / 2;
      if (whole > shared) pairs<1>(r, v + 2 * K * shared, shared, whole, nullptr);
      if (seen % 2) {
        const uint32_t* pair = reinterpret_cast<const uint32_t*>(v) + K * whole;
        if (tail_of != pair)
          for (int64_t i = 0; i < K; ++i) tail[i] = pair[i] & 0xffff;
        tail_of = pair;
        pairs<1>(r, reinterpret_cast<const uint16_t*>(tail), whole, whole + 1, nullptr);
      }
    }
  }
};

// A row of int8 in N terms: value = scale · (high + low / 254), each within ±127; with one term,
// scale · high. Two are 15 bits, so what is lost is what pages of int8 lost; with one the whole
// error would double (KL divergence of a small trained model: 0.0005 instead of 0.0002). On AVX-512
// both together cost no more than bfloat16 pairs, for a step of dot4 takes twice as many columns.
// Pages of int4 lost ten times as much as one term does.
struct Terms {
  const int32_t* codes;  // four columns each: those of `high`, then those of `low`
  float scale;           // NaN when a value is not finite
  int32_t begin[2];      // -128 times the sums of the codes
};

template <int N>
static inline Terms in_terms(const float* x, int64_t n, int8_t* to) {
  const float amax = group_amax(x, n);
  const f32 inverse = set(amax > 0 ? 127 / amax : 0);
  i32 high_sum = zero_i32(), low_sum = zero_i32();
  for (int64_t i = 0; i < n; i += 16) {
    const f32 v = amax > 0 ? mul(load(x + i), inverse) : zero();  // codes of a NaN are codes, too
    const i32 high = round_i32(v);
    store_i8(to + i, high);
    high_sum = add_i32(high_sum, high);
    if constexpr (N == 2) {
      const i32 low = round_i32(mul(sub(v, to_f32(high)), set(254)));
      store_i8(to + n + i, low);
      low_sum = add_i32(low_sum, low);
    }
  }
  return {reinterpret_cast<const int32_t*>(to),
          amax / 127,
          {-128 * sum_lanes(high_sum), N == 2 ? -128 * sum_lanes(low_sum) : 0}};
}

// Two neighbouring tiles of 16 rows: a load gives the bytes (value + 128) of four columns kSteps
// times, and takes kLines cache lines.

// Of LING_I8.
struct ByteTiles {
  static constexpr int kBits = 8, kSteps = 1, kLines = 2;
  const uint8_t* tiles;
  int64_t columns;

  void load(int64_t i, const Levels&, u8 (&w)[kSteps][2]) const {
    for (int j = 0; j < 2; ++j) w[0][j] = load_u8(tiles + kTile * columns * j + 64 * i);
  }
};

// Of LING_I4: a byte has two columns.
struct CodeTiles {
  static constexpr int kBits = 4, kSteps = 2, kLines = 2;
  const uint8_t* tiles;
  int64_t columns;

  void load(int64_t i, const Levels& levels, u8 (&w)[kSteps][2]) const {
    for (int j = 0; j < 2; ++j) {
      const u8 v = load_u8(tiles + kTile / 2 * columns * j + 64 * i);
      w[0][j] = low_codes(levels, v), w[1][j] = high_codes(levels, v);
    }
  }
};

// Of LING_I4 values: a byte has a column of both tiles, so that no two positions share one and
// threads may write them together.
struct CodePairs {
  static constexpr int kBits = 4, kSteps = 1, kLines = 1;
  const uint8_t* tiles;
  int64_t columns;

  void load(int64_t i, const Levels& levels, u8 (&w)[kSteps][2]) const {
    const u8 v = load_u8(tiles + 64 * i);
    w[0][0] = low_codes(levels, v), w[0][1] = high_codes(levels, v);
  }
};

// Two tiles times RB rows of N terms, over the first 4 · `steps` columns.
template <int RB, int N, class Tiles>
static inline void multiply_terms(const Terms* x, const Tiles& tiles, int64_t steps,
                                  const Levels& levels, const uint8_t* next, f32 (&y)[RB][2]) {
  constexpr int S = Tiles::kSteps;
  i32 sums[N][RB][2];
  for (int n = 0; n < N; ++n)
    for (int r = 0; r < RB; ++r)
      for (int j = 0; j < 2; ++j) sums[n][r][j] = dot_begin(x[r].begin[n]);
  for (int64_t d = 0; d < steps; d += S) {
    if (next) fetch(next, Tiles::kLines, d / S);
    u8 w[S][2];
    tiles.load(d / S, levels, w);
    for (int s = 0; s < S; ++s)
      for (int j = 0; j < 2; ++j)
        for (int r = 0; r < RB; ++r)
          for (int n = 0; n < N; ++n)
            sums[n][r][j] =
                dot4(sums[n][r][j], w[s][j], x[r].codes[n * (tiles.columns / 4) + d + s]);
  }
  for (int r = 0; r < RB; ++r)
    for (int j = 0; j < 2; ++j) {
      const f32 high = to_f32(sums[0][r][j]);
      y[r][j] = mul(N == 2 ? fma(to_f32(sums[N - 1][r][j]), set(1 / 254.0f), high) : high,
                    set(x[r].scale));
    }
}

// Pages of int8 or int4, a scale a position. Queries and weights come in terms of 8 bits, and sums
// are exact integers. A value's scale is part of its weight, which is zero where a row may not see,
// whatever the scale.
template <class Keys, class Values>
struct PagesInteger {
  const AttentionTask& t;
  static constexpr int kTerms = Keys::kBits == 8 ? 2 : 1;
  const Levels levels = load_levels(kInt4Bytes.value);
  int8_t* q_codes;  // [rows, kTerms, head_dim]
  int8_t* p_codes;  // [rows, kTerms, 64]
  Terms q[kMaxRows], p[kMaxRows];

  PagesInteger(const AttentionTask& task, float* scratch) : t(task) {
    q_codes = reinterpret_cast<int8_t*>(scratch);
    p_codes = q_codes + t.rows * kTerms * t.head_dim;
  }

  void query(int64_t r, const float* from, float scale) {
    q[r] = in_terms<kTerms>(from, t.head_dim, q_codes + r * kTerms * t.head_dim);
    q[r].scale *= scale;
  }

  // Bytes of n values.
  static constexpr int64_t size(int64_t n) { return n * Keys::kBits / 8; }
  const float* scales(const uint8_t* page) const {
    return reinterpret_cast<const float*>(page + size(kPage * t.head_dim));
  }
  void fetch_scales(const uint8_t* next) const {
    if (next) fetch(next + size(kPage * t.head_dim), 4, 0);
  }

  void weights(int64_t r, const f32 (&e)[4], int64_t seen, const uint8_t* v) {
    float scaled[kPage];
    for (int j = 0; j < 4; ++j)
      store(scaled + 16 * j,
            first_lanes((int)(seen - 16 * j), mul(e[j], load(scales(v) + 16 * j)), zero()));
    p[r] = in_terms<kTerms>(scaled, kPage, p_codes + r * kTerms * kPage);
  }

  template <int RB>
  void scores(int64_t r0, const uint8_t* k, float* to, const uint8_t* next) {
    const int64_t K = t.head_dim;
    for (int64_t key = 0; key < kPage; key += 32) {
      f32 y[RB][2];
      multiply_terms<RB, kTerms>(q + r0, Keys{k + size(K * key), K}, K / 4, levels,
                                 next ? next + size(K * key) : nullptr, y);
      for (int r = 0; r < RB; ++r)
        for (int j = 0; j < 2; ++j)
          store(to + r * kPage + key + 16 * j, mul(y[r][j], load(scales(k) + key + 16 * j)));
    }
    fetch_scales(next);
  }

  template <int RB>
  void values(int64_t r0, int64_t start, const uint8_t* v, const uint8_t* next) {
    const int64_t steps = (visible(t, t.rows - 1, start) + 3) / 4;
    for (int64_t i = 0; i < t.head_dim; i += 32) {
      f32 y[RB][2];
      multiply_terms<RB, kTerms>(p + r0, Values{v + size(kPage * i), kPage}, steps, levels,
                                 next ? next + size(kPage * i) : nullptr, y);
      for (int r = 0; r < RB; ++r)
        for (int j = 0; j < 2; ++j) {
          float* out = t.out[r0 + r] + i + 16 * j;
          store(out, add(load(out), y[r][j]));
        }
    }
    fetch_scales(next);
  }
};

template <class Pages>
static inline void attend(const AttentionTask& t, float* scratch) {
  const int64_t R = t.rows, K = t.head_dim;
  float* scores = scratch;
  Pages pages(t, scratch + R * kPage);
  Softmax soft[kMaxRows];
  for (int64_t r = 0; r < R; ++r) {
    pages.query(r, t.q[r], 1.0f / __builtin_sqrtf((float)K));
    for (int64_t i = 0; i < K; i += 16) store(t.out[r] + i, zero());
    soft[r] = {-__builtin_inff(), 0};
  }
  const int64_t keys = t.first + t.tokens;  // those that the last row sees
  for (int64_t start = 0; start < keys; start += kPage) {
    const int32_t* page = t.pages + start / kPage;
    const uint8_t* k = t.k + page[0] * t.page_stride;
    const uint8_t* v = t.v + page[0] * t.page_stride;
    const bool last = start + kPage >= keys;
    const uint8_t* next_k = last ? nullptr : t.k + page[1] * t.page_stride;
    const uint8_t* next_v = last ? nullptr : t.v + page[1] * t.page_stride;
    int64_t r = 0;
    for (; r + kQueryBlock <= R; r += kQueryBlock)
      pages.template scores<kQueryBlock>(r, k, scores + r * kPage, r ? nullptr : next_k);
    for (; r < R; ++r) pages.template scores<1>(r, k, scores + r * kPage, r ? nullptr : next_k);
    for (int64_t r0 = 0; r0 < R; r0 += kQueryBlock) {
      const int64_t end = r0 + kQueryBlock < R ? r0 + kQueryBlock : R;
      f32 e[kQueryBlock][4];
      for (r = r0; r < end; ++r)
        update(soft[r], scores + r * kPage, visible(t, r, start), e[r - r0], t.out[r], K);
      for (r = r0; r < end; ++r) pages.weights(r, e[r - r0], visible(t, r, start), v);
    }
    for (r = 0; r + kQueryBlock <= R; r += kQueryBlock)
      pages.template values<kQueryBlock>(r, start, v, r ? nullptr : next_v);
    for (; r < R; ++r) pages.template values<1>(r, start, v, r ? nullptr : next_v);
  }
  for (int64_t r = 0; r < R; ++r) {
    const f32 inverse = set(1.0f / soft[r].total);
    for (int64_t i = 0; i < K; i += 16) store(t.out[r] + i, mul(load(t.out[r] + i), inverse));
  }
}

static void attention(const AttentionTask& t, float* scratch) {
  if (t.format == LING_BF16) return attend<PagesBF16>(t, scratch);
  if (t.format == LING_I8) return attend<PagesInteger<ByteTiles, ByteTiles>>(t, scratch);
  attend<PagesInteger<CodeTiles, CodePairs>>(t, scratch);
}
