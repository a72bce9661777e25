// Causal attention of one head over a whole sequence, and its gradient: for training.
//
// Blocks of 64 queries meet blocks of 64 keys. Scores are made as [key][query], so that a lane is a
// query: its softmax needs no sums across lanes, keys and values are multiplied where they are, and
// what the second products read (weights of a key, or of a pair of keys side by side) is written as
// it is made. Products are of bfloat16 pairs, sums in float32.

constexpr int64_t kCausal = kCausalBlock;

// 2^x within 3e-7 for x < 128; what is below -126 becomes 2^-126.
static inline f32 power_of_two(f32 x) {
  x = maximum(set(-126.0f), x);  // in this order NaN stays
  const i32 n = round_i32(x);
  const f32 r = sub(x, to_f32(n));
  f32 p = set(1.33335581e-3f);
  p = fma(p, r, set(9.61812911e-3f));
  p = fma(p, r, set(5.55041087e-2f));
  p = fma(p, r, set(2.40226507e-1f));
  p = fma(p, r, set(6.93147181e-1f));
  p = fma(p, r, set(1.0f));
  return mul(p, power2(n));
}

// To bfloat16, nearest even: 16 values, or pairs (first[i], second[i]).
#ifdef __AVX512BF16__
static inline void store_rounded(uint16_t* p, f32 x) {
  _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x));
}
static inline void store_rounded_pairs(uint16_t* p, f32 first, f32 second) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
  _mm512_storeu_si512(p, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
#else
static inline void store_rounded(uint16_t* p, f32 x) { store_bf16(p, x); }
static inline void store_rounded_pairs(uint16_t* p, f32 first, f32 second) {
  uint16_t low[16], high[16];
  store_bf16(low, first), store_bf16(high, second);
  for (int i = 0; i < 16; ++i) p[2 * i] = low[i], p[2 * i + 1] = high[i];
}
#endif

static inline uint32_t pair_at(const uint16_t* p) {
  uint32_t both;
  memcpy(&both, p, 4);
  return both;
}

// acc[r][j] += sum over pairs of a[r] · b, columns 16 j on; b is [pairs][b_stride] of pairs.
template <int N>
static inline void multiply(const uint16_t* const (&a)[4], const uint16_t* b, int64_t b_stride,
                            int64_t pairs, f32 (&acc)[4][N]) {
  for (int64_t p = 0; p < pairs; ++p)
    for (int j = 0; j < N; ++j) {
      const b16 column = load_pairs(b + p * b_stride + 32 * j);
      for (int r = 0; r < 4; ++r) acc[r][j] = dot2(acc[r][j], column, pair_at(a[r] + 2 * p));
    }
}

template <int N>
static inline void accumulate_columns(const uint16_t* const (&a)[4], const uint16_t* b,
                                      int64_t b_stride, int64_t pairs, float* c, int64_t c_stride) {
  f32 acc[4][N];
  for (int r = 0; r < 4; ++r)
    for (int j = 0; j < N; ++j) acc[r][j] = load(c + r * c_stride + 16 * j);
  multiply(a, b, b_stride, pairs, acc);
  for (int r = 0; r < 4; ++r)
    for (int j = 0; j < N; ++j) store(c + r * c_stride + 16 * j, acc[r][j]);
}

// c [rows][cols] += a [rows][64] · b [pairs][cols] of pairs; rows a multiple of 4, cols of 32.
static inline void accumulate(const uint16_t* a, int64_t rows, const uint16_t* b, int64_t cols,
                              int64_t pairs, float* c) {
  for (int64_t r = 0; r < rows; r += 4) {
    const uint16_t* const four[4] = {a + r * kCausal, a + (r + 1) * kCausal, a + (r + 2) * kCausal,
                                     a + (r + 3) * kCausal};
    int64_t i = 0;
    for (; i + 64 <= cols; i += 64)
      accumulate_columns<4>(four, b + 2 * i, 2 * cols, pairs, c + r * cols + i, cols);
    if (i < cols) accumulate_columns<2>(four, b + 2 * i, 2 * cols, pairs, c + r * cols + i, cols);
  }
}

// n rows of K values as [K / 2][64] pairs of channels; further rows are zero.
static inline void pack_channels(const uint16_t* x, int64_t stride, int64_t n, int64_t K,
                                 uint16_t* to) {
  uint32_t* pairs = reinterpret_cast<uint32_t*>(to);
  for (int64_t d = 0; d < K / 2; ++d)
    for (int64_t t = n; t < kCausal; ++t) pairs[d * kCausal + t] = 0;
  for (int64_t t = 0; t < n; ++t)
    for (int64_t d = 0; d < K / 2; ++d) pairs[d * kCausal + t] = pair_at(x + t * stride + 2 * d);
}

// The same rows as [32][K] pairs of rows.
static inline void pack_rows(const uint16_t* x, int64_t stride, int64_t n, int64_t K,
                             uint16_t* to) {
  uint32_t* pairs = reinterpret_cast<uint32_t*>(to);
  for (int64_t t = 0; t < kCausal; t += 2) {
    const uint16_t *first = x + t * stride, *second = first + stride;
    uint32_t* row = pairs + t / 2 * K;
    if (t + 1 < n)
      for (int64_t d = 0; d < K; ++d) row[d] = first[d] | (uint32_t)second[d] << 16;
    else
      for (int64_t d = 0; d < K; ++d) row[d] = t < n ? first[d] : 0;
  }
}

// n rows of K values as [K][64]; further columns are zero.
template <class T>
static void causal_transpose(const T* x, int64_t stride, int64_t n, int64_t K, T* to) {
  for (int64_t d = 0; d < K; ++d)
    for (int64_t t = 0; t < kCausal; ++t) to[d * kCausal + t] = t < n ? x[t * stride + d] : 0;
}

// [K][64] times a factor for each of the 64, as n rows of bfloat16.
static inline void store_transposed(const float* from, const f32 (&factor)[4], int64_t K,
                                    int64_t stride, int64_t n, uint16_t* to) {
  uint16_t pairs[2 * kCausal];
  for (int64_t d = 0; d < K; d += 2) {
    for (int j = 0; j < 4; ++j) {
      const float* at = from + d * kCausal + 16 * j;
      store_rounded_pairs(pairs + 32 * j, mul(load(at), factor[j]),
                          mul(load(at + kCausal), factor[j]));
    }
    for (int64_t t = 0; t < n; ++t) memcpy(to + t * stride + d, pairs + 2 * t, 4);
  }
}

// Queries of a head that start at `first`, and the keys that a block of 64 has for them.
struct KeyBlock {
  int64_t start, rows;  // of the sequence; rows are rounded up to 4
  int64_t last;         // key of the sequence
  bool whole;           // every query sees all of them
};

static inline KeyBlock key_block(const CausalTask& t, int64_t position, int64_t n, int64_t start) {
  const int64_t seen = position + n < t.keys ? position + n : t.keys;
  const int64_t rows = ((seen - start < kCausal ? seen - start : kCausal) + 3) / 4 * 4;
  return {start, rows, t.keys - 1, start + rows - 1 <= position};
}

// Four rows from r on; what is beyond the sequence is its last row, which no query sees.
static inline void four_rows(const KeyBlock& b, int64_t r, const uint16_t* x, int64_t stride,
                             const uint16_t* (&rows)[4]) {
  for (int i = 0; i < 4; ++i) {
    const int64_t key = b.start + r + i;
    rows[i] = x + (key < b.last ? key : b.last) * stride;
  }
}

// `x` for queries that see the key, else `otherwise`; vector j of queries from `position` on.
static inline f32 if_seen(int64_t key, int64_t position, int j, f32 x, f32 otherwise) {
  return first_lanes((int)(key - position - 16 * j), otherwise, x);
}

static inline void multiply_keys(const uint16_t* const (&rows)[4], const uint16_t* packed,
                                 int64_t K, f32 (&acc)[4][4]) {
  for (auto& row : acc)
    for (f32& x : row) x = zero();
  multiply(rows, packed, 2 * kCausal, K / 2, acc);
}

// Scores of a block of keys in units of log2(e), [64][64], and their maximum with `top` in `next`.
static inline void block_scores(const CausalTask& t, const KeyBlock& b, int64_t position,
                                const uint16_t* packed_q, float* scores, f32 (&next)[4]) {
  const f32 scale = set(t.scale * 1.44269504f), least = set(-__builtin_inff());
  for (int64_t r = 0; r < b.rows; r += 4) {
    const uint16_t* rows[4];
    f32 acc[4][4];
    four_rows(b, r, t.k, t.k_stride, rows);
    multiply_keys(rows, packed_q, t.head_dim, acc);
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) {
        f32 s = mul(acc[i][j], scale);
        if (!b.whole) s = if_seen(b.start + r + i, position, j, s, least);
        store(scores + (r + i) * kCausal + 16 * j, s);
        next[j] = maximum(next[j], s);
      }
  }
}

// 2^(score - top) of a block as pairs of keys; adds to `total`.
static inline void block_weights(const KeyBlock& b, int64_t position, const float* scores,
                                 const f32 (&top)[4], f32 (&total)[4], uint16_t* pairs) {
  for (int64_t r = 0; r < b.rows; r += 2)
    for (int j = 0; j < 4; ++j) {
      f32 p[2];
      for (int i = 0; i < 2; ++i) {
        p[i] = power_of_two(sub(load(scores + (r + i) * kCausal + 16 * j), top[j]));
        if (!b.whole) p[i] = if_seen(b.start + r + i, position, j, p[i], zero());
        total[j] = add(total[j], p[i]);
      }
      store_rounded_pairs(pairs + r * kCausal + 32 * j, p[0], p[1]);
    }
}

// Queries [first, first + n) of the task, n up to 64: out, and the log2 of their softmax's sum.
static void causal_forward(const CausalTask& t, int64_t first, int64_t n, uint8_t* scratch) {
  const int64_t K = t.head_dim, position = t.keys - t.queries + first;
  float* out = reinterpret_cast<float*>(scratch);  // [K][64]
  float* scores = out + K * kCausal;
  uint16_t* packed_q = reinterpret_cast<uint16_t*>(scores + kCausal * kCausal);
  uint16_t* pairs = packed_q + K * kCausal;
  pack_channels(t.q + first * t.q_stride, t.q_stride, n, K, packed_q);
  f32 top[4], total[4];
  for (int j = 0; j < 4; ++j) top[j] = set(-__builtin_inff()), total[j] = zero();
  for (int64_t i = 0; i < K * kCausal; i += 16) store(out + i, zero());
  for (int64_t start = 0; start < position + n && start < t.keys; start += kCausal) {
    const KeyBlock b = key_block(t, position, n, start);
    f32 next[4] = {top[0], top[1], top[2], top[3]};
    block_scores(t, b, position, packed_q, scores, next);
    for (int j = 0; j < 4; ++j) {
      const f32 shrink = power_of_two(sub(top[j], next[j]));
      total[j] = mul(total[j], shrink), top[j] = next[j];
      if (start)
        for (int64_t d = 0; d < K; ++d) {
          float* at = out + d * kCausal + 16 * j;
          store(at, mul(load(at), shrink));
        }
    }
    block_weights(b, position, scores, top, total, pairs);
    accumulate(t.transposed + start * K, K, pairs, kCausal, b.rows / 2, out);
  }
  f32 inverse[4];
  float sums[kCausal], tops[kCausal];
  for (int j = 0; j < 4; ++j) {
    inverse[j] = div(set(1), total[j]);
    store(sums + 16 * j, total[j]), store(tops + 16 * j, top[j]);
  }
  store_transposed(out, inverse, K, t.out_stride, n, t.out + first * t.out_stride);
  for (int64_t i = 0; i < n; ++i) t.lse[first + i] = tops[i] + log2f(sums[i]);
}

// What the backward pass of a block of queries reads, in the layouts of its products.
struct QueryBlock {
  uint16_t *q_channels, *dout_channels, *q_rows, *dout_rows;
  float lse[kCausal], delta[kCausal];
};

static inline float dot_rows(const uint16_t* a, const uint16_t* b, int64_t K) {
  f32 sum = zero();
  for (int64_t d = 0; d < K; d += 16) sum = fma(load_bf16(a + d), load_bf16(b + d), sum);
  return reduce_add(sum);
}

static inline void load_queries(const CausalTask& t, int64_t first, int64_t n, QueryBlock& x) {
  const int64_t K = t.head_dim;
  const uint16_t *q = t.q + first * t.q_stride, *dout = t.dout + first * t.out_stride;
  pack_channels(q, t.q_stride, n, K, x.q_channels);
  pack_rows(q, t.q_stride, n, K, x.q_rows);
  pack_channels(dout, t.out_stride, n, K, x.dout_channels);
  pack_rows(dout, t.out_stride, n, K, x.dout_rows);
  for (int64_t i = 0; i < kCausal; ++i) {
    const bool real = i < n;  // of the others all weights are zero
    x.lse[i] = real ? t.lse[first + i] : __builtin_inff();
    x.delta[i] =
        real ? dot_rows(dout + i * t.out_stride, t.out + (first + i) * t.out_stride, K) : 0;
  }
}

// Weights p and gradients of the scores (without the scale) of a block of keys: as rows [64][64],
// and the latter also as pairs of keys.
static inline void block_gradients(const CausalTask& t, const KeyBlock& b, int64_t position,
                                   const QueryBlock& x, uint16_t* p_rows, uint16_t* ds_rows,
                                   uint16_t* ds_pairs) {
  const f32 scale = set(t.scale * 1.44269504f);
  for (int64_t r = 0; r < b.rows; r += 4) {
    const uint16_t* rows[4];
    f32 acc[4][4];
    float p[4][kCausal];
    four_rows(b, r, t.k, t.k_stride, rows);
    multiply_keys(rows, x.q_channels, t.head_dim, acc);
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) {
        f32 e = power_of_two(fma(acc[i][j], scale, sub(zero(), load(x.lse + 16 * j))));
        if (!b.whole) e = if_seen(b.start + r + i, position, j, e, zero());
        store(p[i] + 16 * j, e);
        store_rounded(p_rows + (r + i) * kCausal + 16 * j, e);
      }
    four_rows(b, r, t.v, t.v_stride, rows);
    multiply_keys(rows, x.dout_channels, t.head_dim, acc);
    for (int i = 0; i < 4; i += 2)
      for (int j = 0; j < 4; ++j) {
        const f32 delta = load(x.delta + 16 * j);
        const f32 even = mul(load(p[i] + 16 * j), sub(acc[i][j], delta));
        const f32 odd = mul(load(p[i + 1] + 16 * j), sub(acc[i + 1][j], delta));
        store_rounded(ds_rows + (r + i) * kCausal + 16 * j, even);
        store_rounded(ds_rows + (r + i + 1) * kCausal + 16 * j, odd);
        store_rounded_pairs(ds_pairs + (r + i) * kCausal + 32 * j, even, odd);
      }
  }
}

// The gradient of one head: dq, and float32 sums of dk (without the scale) and dv, each
// [keys padded to 64][K], which are zero before.
static void causal_backward(const CausalTask& t, float* dk, float* dv, uint8_t* scratch) {
  const int64_t K = t.head_dim;
  float* dq = reinterpret_cast<float*>(scratch);  // [K][64]
  uint16_t* half = reinterpret_cast<uint16_t*>(dq + K * kCausal);
  QueryBlock x = {half, half + K * kCausal, half + 2 * K * kCausal, half + 3 * K * kCausal, {}, {}};
  uint16_t* p_rows = half + 4 * K * kCausal;
  uint16_t *ds_rows = p_rows + kCausal * kCausal, *ds_pairs = ds_rows + kCausal * kCausal;
  const f32 scale = set(t.scale), scales[4] = {scale, scale, scale, scale};
  for (int64_t first = 0; first < t.queries; first += kCausal) {
    const int64_t n = t.queries - first < kCausal ? t.queries - first : kCausal;
    const int64_t position = t.keys - t.queries + first;
    load_queries(t, first, n, x);
    for (int64_t i = 0; i < K * kCausal; i += 16) store(dq + i, zero());
    for (int64_t start = 0; start < position + n && start < t.keys; start += kCausal) {
      const KeyBlock b = key_block(t, position, n, start);
      block_gradients(t, b, position, x, p_rows, ds_rows, ds_pairs);
      accumulate(p_rows, b.rows, x.dout_rows, K, kCausal / 2, dv + start * K);
      accumulate(ds_rows, b.rows, x.q_rows, K, kCausal / 2, dk + start * K);
      accumulate(t.transposed + start * K, K, ds_pairs, kCausal, b.rows / 2, dq);
    }
    store_transposed(dq, scales, K, t.out_stride, n, t.dq + first * t.out_stride);
  }
}
