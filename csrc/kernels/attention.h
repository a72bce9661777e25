// Causal attention of some query rows over KV pages: page by page, in order, with an online softmax.
//
// A row's arithmetic does not depend on the rows beside it: pages that a row may not see change
// nothing (its weights there are exactly zero, and e^0 = 1 exactly).

constexpr int kQueryBlock = 4;

// Pages lie anywhere, so the hardware cannot guess the next one: while a page's keys are read its values
// are fetched, and then the keys of the next page, a cache line for each line that is used.
static inline void fetch(const uint16_t* p, int64_t line) {
  for (int64_t i = 0; i < 4; ++i) prefetch(p + 32 * (4 * line + i));
}

// scores[r][key] for RB rows and the 64 keys of a page; fetches `next` on the way.
template <int RB>
static inline void page_scores(const uint32_t* const* q, const uint16_t* k, int64_t pairs,
                               float* const* scores, const uint16_t* next) {
  f32 acc[RB][4];
  for (int r = 0; r < RB; ++r)
    for (int j = 0; j < 4; ++j) acc[r][j] = zero();
  for (int64_t d = 0; d < pairs; ++d) {
    if (next) fetch(next, d);
    for (int j = 0; j < 4; ++j)
      for (int r = 0; r < RB; ++r)
        acc[r][j] = dot2(acc[r][j], load_pairs(k + 128 * d + 32 * j), q[r][d]);
  }
  for (int r = 0; r < RB; ++r)
    for (int j = 0; j < 4; ++j) store(scores[r] + 16 * j, acc[r][j]);
}

// out[r][0 .. 64) += sum over key pairs of p · v, for RB rows and 64 channels.
template <int RB, int NV>
static inline void page_values(const uint32_t* const* p, const uint16_t* v, int64_t head_dim,
                               int64_t key_pairs, float* const* out, const uint16_t* next) {
  f32 acc[RB][NV];
  for (int r = 0; r < RB; ++r)
    for (int j = 0; j < NV; ++j) acc[r][j] = load(out[r] + 16 * j);
  for (int64_t c = 0; c < key_pairs; ++c) {
    if (next) fetch(next, c);
    for (int j = 0; j < NV; ++j)
      for (int r = 0; r < RB; ++r)
        acc[r][j] = dot2(acc[r][j], load_pairs(v + 2 * head_dim * c + 32 * j), p[r][c]);
  }
  for (int r = 0; r < RB; ++r)
    for (int j = 0; j < NV; ++j) store(out[r] + 16 * j, acc[r][j]);
}

struct Softmax {
  float top, total;
};

// Masks keys from `seen` on, updates the running softmax, leaves weights as bfloat16 in p and scales
// what was summed so far.
static inline void update(Softmax& s, const float* scores, int64_t seen, uint16_t* p, float* out,
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
    const f32 e = first_lanes((int)(seen - 16 * j), exponential(sub(x[j], set(new_top))), zero());
    sum = add(sum, e);
    store_bf16(p + 16 * j, e);
  }
  float shrink[16];
  store(shrink, exponential(set(s.top - new_top)));
  s.total = s.total * shrink[0] + reduce_add(sum);
  if (new_top != s.top)
    for (int64_t i = 0; i < head_dim; i += 16)
      store(out + i, mul(load(out + i), set(shrink[0])));
  s.top = new_top;
}

template <int RB>
static inline void rows_values(const uint32_t* const* p, const uint16_t* v, int64_t head_dim,
                               int64_t key_pairs, float* const* out, const uint16_t* next) {
  float* at[RB];
  for (int64_t i = 0; i < head_dim; i += 32) {
    for (int r = 0; r < RB; ++r) at[r] = out[r] + i;
    // The share of the next page that comes with these channels: 64 values for each of 64 keys.
    const uint16_t* part = next ? next + kPage * i : nullptr;
    if (i + 64 <= head_dim) {
      page_values<RB, 4>(p, v + 2 * i, head_dim, key_pairs, at, part);
      i += 32;
    } else {
      page_values<RB, 2>(p, v + 2 * i, head_dim, key_pairs, at, nullptr);
    }
  }
}

static void attention(const AttentionTask& t, float* scratch) {
  const int64_t R = t.rows, K = t.head_dim, pairs = K / 2;
  uint32_t* q = reinterpret_cast<uint32_t*>(scratch);
  float* scores = scratch + R * pairs;
  uint16_t* p = reinterpret_cast<uint16_t*>(scores + R * kPage);
  uint16_t* tail = p + R * kPage;  // one key pair of values
  Softmax soft[kMaxRows];
  const uint32_t* q_row[kMaxRows];
  const uint32_t* p_row[kMaxRows];
  float* s_row[kMaxRows];
  float* out[kMaxRows];
  const f32 scale = set(1.0f / __builtin_sqrtf((float)K));
  for (int64_t r = 0; r < R; ++r) {
    uint16_t* to = reinterpret_cast<uint16_t*>(q + r * pairs);
    out[r] = t.out[r];
    for (int64_t i = 0; i < K; i += 16) {
      store_bf16(to + i, mul(load(t.q[r] + i), scale));
      store(out[r] + i, zero());
    }
    q_row[r] = q + r * pairs;
    p_row[r] = reinterpret_cast<uint32_t*>(p + r * kPage);
    s_row[r] = scores + r * kPage;
    soft[r] = {-__builtin_inff(), 0};
  }
  const int64_t keys = t.first + t.tokens;  // those that the last row sees
  for (int64_t start = 0; start < keys; start += kPage) {
    const int64_t at = t.pages[start / kPage] * t.page_stride;
    const uint16_t* k = t.k + at;
    const uint16_t* v = t.v + at;
    const uint16_t* next =
        start + kPage < keys ? t.k + t.pages[start / kPage + 1] * t.page_stride : nullptr;
    int64_t r = 0;
    for (; r + kQueryBlock <= R; r += kQueryBlock)
      page_scores<kQueryBlock>(q_row + r, k, pairs, s_row + r, r ? nullptr : v);
    for (; r < R; ++r) page_scores<1>(q_row + r, k, pairs, s_row + r, r ? nullptr : v);
    for (r = 0; r < R; ++r)
      update(soft[r], s_row[r], t.first + r / t.group + 1 - start, p + r * kPage, out[r], K);
    const int64_t held = keys - start < kPage ? keys - start : kPage;
    const int64_t whole = held / 2;
    for (r = 0; r + kQueryBlock <= R; r += kQueryBlock)
      rows_values<kQueryBlock>(p_row + r, v, K, whole, out + r, r ? nullptr : next);
    for (; r < R; ++r) rows_values<1>(p_row + r, v, K, whole, out + r, r ? nullptr : next);
    if (held % 2) {
      // The pair's second key is not written yet: whatever lies there must not be read as a value.
      for (int64_t i = 0; i < 2 * K; ++i) tail[i] = i % 2 ? 0 : v[2 * K * whole + i];
      for (r = 0; r < R; ++r) {
        const uint32_t* pr = p_row[r] + whole;
        rows_values<1>(&pr, tail, K, 1, out + r, nullptr);
      }
    }
  }
  for (int64_t r = 0; r < R; ++r) {
    const f32 inverse = set(1.0f / soft[r].total);
    for (int64_t i = 0; i < K; i += 16) store(out[r] + i, mul(load(out[r] + i), inverse));
  }
}
