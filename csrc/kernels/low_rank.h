// Low-rank adapters: A x before a product, and B times that in its epilogue. A row's sums have one
// order, whatever is computed beside it.

constexpr int kLowRankBlock = 4;  // rows of A, and of x, that share their loads

// Rows j .. j + N of A times M rows of x: 16 sums side by side, over columns modulo 16.
template <int N, int M>
static inline void low_rank_block(const LowRankTask& t, int64_t j, int64_t m) {
  const ling_low_rank& w = *t.matrix;
  const uint16_t* a = w.a + j * t.cols;
  f32 acc[N][M];
  for (int n = 0; n < N; ++n)
    for (int i = 0; i < M; ++i) acc[n][i] = zero();
  for (int64_t k = 0; k < t.cols; k += 16) {
    f32 x[M];
    for (int i = 0; i < M; ++i) x[i] = load(t.x[m + i] + k);
    for (int n = 0; n < N; ++n) {
      const f32 v = load_bf16(a + n * t.cols + k);
      for (int i = 0; i < M; ++i) acc[n][i] = fma(v, x[i], acc[n][i]);
    }
  }
  for (int n = 0; n < N; ++n)
    for (int i = 0; i < M; ++i)
      t.rows[m + i].t[j + n] = w.scales[j + n >= w.rank] * reduce_add(acc[n][i]);
}

template <int N>
static inline void low_rank_rows(const LowRankTask& t, int64_t j) {
  int64_t m = 0;
  for (; m + kLowRankBlock <= t.m; m += kLowRankBlock) low_rank_block<N, kLowRankBlock>(t, j, m);
  for (; m < t.m; ++m) low_rank_block<N, 1>(t, j, m);
}

static void low_rank(const LowRankTask& t) {
  int64_t j = t.first;
  for (; j + kLowRankBlock <= t.end; j += kLowRankBlock) low_rank_rows<kLowRankBlock>(t, j);
  for (; j < t.end; ++j) low_rank_rows<1>(t, j);
}

// 16 finished values of row m, and what the row's adapter adds to them. Not inlined: products
// without adapters keep their registers.
__attribute__((noinline)) static f32 add_low_rank(const Product& p, int64_t m, int64_t tile,
                                                  f32 v) {
  const LowRankRow& row = p.low_rank[m];
  if (!row.b) return v;
  const uint16_t* b = row.b + tile * kTile * row.rank;
  const float* t = row.t + (p.epilogue == Epilogue::kSwiGLU && tile % 2 ? row.rank : 0);
  // One sum would wait for itself at every step.
  f32 sum[kLowRankBlock];
  for (f32& part : sum) part = zero();
  const auto take = [&](int64_t j, f32& part) {
    part = fma(load_bf16(b + kTile * j), set(t[j]), part);
  };
  int64_t j = 0;
  for (; j + kLowRankBlock <= row.rank; j += kLowRankBlock)
    for (int i = 0; i < kLowRankBlock; ++i) take(j + i, sum[i]);
  for (; j < row.rank; ++j) take(j, sum[0]);
  return add(v, add(add(sum[0], sum[1]), add(sum[2], sum[3])));
}
