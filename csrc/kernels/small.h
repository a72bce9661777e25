// Products of float32 matrices that stay in the caches of a core: of a few dozen rows and columns.

// Rows of 16 sums that are in registers: as many as two multiply-adds a cycle have to wait for.
#if defined(__AVX512F__)
constexpr int kSmallRows = 8;
#else
constexpr int kSmallRows = 4;
#endif

// A matrix to read: element (r, k) is at[r · row + k · col].
struct Strided {
  const float* at;
  int64_t row, col;
};

// N rows of c, 16 columns: a · b, added to what is there if `adds`. b is [depth] rows of 16.
template <int N>
static inline void small_tile(const Strided& a, int64_t r, const float* b, int64_t b_stride,
                              int64_t depth, float* c, int64_t c_stride, bool adds) {
  f32 sums[N];
  for (int i = 0; i < N; ++i) sums[i] = adds ? load(c + i * c_stride) : zero();
  const float* at = a.at + r * a.row;
  for (int64_t k = 0; k < depth; ++k) {
    const f32 row = load(b + k * b_stride);
    for (int i = 0; i < N; ++i) sums[i] = fma(set(at[i * a.row + k * a.col]), row, sums[i]);
  }
  for (int i = 0; i < N; ++i) store(c + i * c_stride, sums[i]);
}

// c [rows][cols] = a · b, or += if `adds`; b is [depth][cols], cols a multiple of 16.
static void small_product(const Strided& a, int64_t rows, const float* b, int64_t b_stride,
                          int64_t depth, int64_t cols, float* c, int64_t c_stride, bool adds) {
  for (int64_t j = 0; j < cols; j += 16) {
    int64_t r = 0;
    for (; r + kSmallRows <= rows; r += kSmallRows)
      small_tile<kSmallRows>(a, r, b + j, b_stride, depth, c + r * c_stride + j, c_stride, adds);
    for (; r + 2 <= rows; r += 2)
      small_tile<2>(a, r, b + j, b_stride, depth, c + r * c_stride + j, c_stride, adds);
    if (r < rows) small_tile<1>(a, r, b + j, b_stride, depth, c + r * c_stride + j, c_stride, adds);
  }
}
