// Causal attention of one head in float32, and its gradient: the blocks of causal.h, of products of
// float32. A lane is a query; a strip is 16 of them.

constexpr int64_t kStrips = kCausal / 16;

// Of a block of up to 64 keys from `start` on: how many, and how many a strip of queries sees. The
// first query is at `position` of the keys; strips without queries are left out.
struct KeyRows {
  int64_t start, rows, position, strips;
  int64_t seen(int64_t strip) const {
    const int64_t n = position + 16 * strip + 16 - start;
    return n < rows ? n < 0 ? 0 : n : rows;
  }
  bool whole(int64_t strip) const { return start + rows - 1 <= position + 16 * strip; }
};

static inline KeyRows key_rows(const CausalTaskF32& t, int64_t position, int64_t n, int64_t start) {
  const int64_t last = position + n < t.keys ? position + n : t.keys;
  const int64_t rows = last - start < kCausal ? last - start : kCausal;
  return {start, rows, position, (n + 15) / 16};
}

// [K][64] times a factor for each of the 64, as n rows.
static inline void scaled_rows(const float* from, const float* factor, int64_t K, int64_t stride,
                               int64_t n, float* to) {
  for (int64_t t = 0; t < n; ++t)
    for (int64_t d = 0; d < K; ++d) to[t * stride + d] = from[d * kCausal + t] * factor[t];
}

// [key][64]: products of the keys with what [K][64] has of each query, of those that it sees.
static inline void key_products(const KeyRows& b, const float* x, int64_t stride, int64_t K,
                                const float* lanes, float* out) {
  for (int64_t j = 0; j < b.strips; ++j)
    small_product({x + b.start * stride, stride, 1}, b.seen(j), lanes + 16 * j, kCausal, K, 16,
                  out + 16 * j, kCausal, false);
}

// [K][64] += the sum over the keys that a query sees of their rows times its weights.
static inline void add_keys(const KeyRows& b, const float* x, int64_t stride, int64_t K,
                            const float* weights, float* to) {
  for (int64_t j = 0; j < b.strips; ++j)
    small_product({x + b.start * stride, 1, stride}, K, weights + 16 * j, kCausal, b.seen(j), 16,
                  to + 16 * j, kCausal, true);
}

// Queries [first, first + n) of the task, n up to 64: out, and the log2 of their softmax's sum.
static void causal_forward_f32(const CausalTaskF32& t, int64_t first, int64_t n, uint8_t* scratch) {
  const int64_t K = t.head_dim, position = t.keys - t.queries + first;
  float* out = reinterpret_cast<float*>(scratch);  // [K][64]
  float* queries = out + K * kCausal;              // the same
  float* scores = queries + K * kCausal;           // [64][64]
  causal_transpose(t.q + first * t.q_stride, t.q_stride, n, K, queries);
  f32 top[kStrips], total[kStrips];
  for (f32& x : top) x = set(-__builtin_inff());
  for (f32& x : total) x = zero();
  for (int64_t i = 0; i < K * kCausal; i += 16) store(out + i, zero());
  const f32 scale = set(t.scale * 1.44269504f), least = set(-__builtin_inff());
  for (int64_t start = 0; start < position + n && start < t.keys; start += kCausal) {
    const KeyRows b = key_rows(t, position, n, start);
    key_products(b, t.k, t.k_stride, K, queries, scores);
    for (int64_t j = 0; j < b.strips; ++j) {
      const int64_t seen = b.seen(j);
      if (!seen) continue;
      f32 next = top[j];
      for (int64_t r = 0; r < seen; ++r) {
        float* at = scores + r * kCausal + 16 * j;
        f32 s = mul(load(at), scale);
        if (!b.whole(j)) s = if_seen(start + r, position, (int)j, s, least);
        store(at, s);
        next = maximum(next, s);
      }
      const f32 shrink = power_of_two(sub(top[j], next));
      top[j] = next, total[j] = mul(total[j], shrink);
      if (start)
        for (int64_t d = 0; d < K; ++d) {
          float* at = out + d * kCausal + 16 * j;
          store(at, mul(load(at), shrink));
        }
      for (int64_t r = 0; r < seen; ++r) {
        float* at = scores + r * kCausal + 16 * j;
        f32 p = power_of_two(sub(load(at), next));
        if (!b.whole(j)) p = if_seen(start + r, position, (int)j, p, zero());
        total[j] = add(total[j], p);
        store(at, p);
      }
    }
    add_keys(b, t.v, t.v_stride, K, scores, out);
  }
  float inverse[kCausal], sums[kCausal], tops[kCausal];
  for (int64_t j = 0; j < kStrips; ++j) {
    store(inverse + 16 * j, div(set(1), total[j]));
    store(sums + 16 * j, total[j]), store(tops + 16 * j, top[j]);
  }
  scaled_rows(out, inverse, K, t.out_stride, n, t.out + first * t.out_stride);
  for (int64_t i = 0; i < n; ++i) t.lse[first + i] = tops[i] + log2f(sums[i]);
}

// The gradient of one head: dq, and sums of dk (without the scale) and dv, each [keys padded to
// 64][K], which are zero before.
static void causal_backward_f32(const CausalTaskF32& t, float* dk, float* dv, uint8_t* scratch) {
  const int64_t K = t.head_dim;
  float* dq = reinterpret_cast<float*>(scratch);  // [K][64]
  float *queries = dq + K * kCausal, *douts = queries + K * kCausal;
  float *p = douts + K * kCausal, *ds = p + kCausal * kCausal;  // [64][64]
  const f32 scale = set(t.scale * 1.44269504f);
  for (int64_t first = 0; first < t.queries; first += kCausal) {
    const int64_t n = t.queries - first < kCausal ? t.queries - first : kCausal;
    const int64_t position = t.keys - t.queries + first;
    const float *q = t.q + first * t.q_stride, *dout = t.dout + first * t.out_stride;
    float lse[kCausal], delta[kCausal], factor[kCausal];
    for (int64_t i = 0; i < kCausal; ++i) {
      // Lanes beyond the queries get numbers that nothing reads.
      lse[i] = i < n ? t.lse[first + i] : __builtin_inff(), delta[i] = 0, factor[i] = t.scale;
      for (int64_t d = 0; d < K && i < n; ++d)
        delta[i] += dout[i * t.out_stride + d] * t.out[(first + i) * t.out_stride + d];
    }
    causal_transpose(q, t.q_stride, n, K, queries),
        causal_transpose(dout, t.out_stride, n, K, douts);
    for (int64_t i = 0; i < K * kCausal; i += 16) store(dq + i, zero());
    for (int64_t start = 0; start < position + n && start < t.keys; start += kCausal) {
      const KeyRows b = key_rows(t, position, n, start);
      key_products(b, t.k, t.k_stride, K, queries, p);
      key_products(b, t.v, t.v_stride, K, douts, ds);
      for (int64_t j = 0; j < b.strips; ++j) {
        const f32 top = load(lse + 16 * j), mean = load(delta + 16 * j);
        for (int64_t r = 0; r < b.rows; ++r) {
          const int64_t at = r * kCausal + 16 * j;
          if (r >= b.seen(j)) {
            store(p + at, zero()), store(ds + at, zero());
            continue;
          }
          f32 w = power_of_two(fma(load(p + at), scale, sub(zero(), top)));
          if (!b.whole(j)) w = if_seen(start + r, position, (int)j, w, zero());
          store(p + at, w);
          store(ds + at, mul(w, sub(load(ds + at), mean)));
        }
      }
      small_product({p, kCausal, 1}, b.rows, dout, t.out_stride, n, K, dv + start * K, K, true);
      small_product({ds, kCausal, 1}, b.rows, q, t.q_stride, n, K, dk + start * K, K, true);
      add_keys(b, t.k, t.k_stride, K, ds, dq);
    }
    scaled_rows(dq, factor, K, t.out_stride, n, t.dq + first * t.out_stride);
  }
}
