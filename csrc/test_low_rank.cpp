// Low-rank adapters beside a product against their formula in scalars, bit for bit: so every
// instruction set gives the same.
#include "internal.h"
#include "test.h"
#include "workspace.h"

namespace {

using ling::kTile;
using ling::LowRankRow;

// scale · (row of A) · x: 16 sums over columns modulo 16, then halves of them together.
float value_of(const uint16_t* a, const float* x, int64_t cols, float scale) {
  float sum[16] = {};
  for (int64_t k = 0; k < cols; ++k) sum[k % 16] = fmaf(from_bf16(a[k]), x[k], sum[k % 16]);
  for (int n = 8; n; n /= 2)
    for (int i = 0; i < n; ++i) sum[i] += sum[i + n];
  return scale * sum[0];
}

// Column n of B t: four sums over ranks, what is left of four in the first.
float added_of(const uint16_t* b, const float* t, int64_t rank, int64_t n) {
  float sum[4] = {};
  for (int64_t j = 0; j < rank; ++j) {
    float& part = sum[j < rank / 4 * 4 ? j % 4 : 0];
    part = fmaf(from_bf16(b[(n / kTile * rank + j) * kTile + n % kTile]), t[j], part);
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

struct Case {
  Matrix w;
  int64_t m, rank, values;  // values: rows of A
  Array<uint16_t> a, b;
  Array<float> x, t;
  ling_low_rank matrix;
  std::vector<LowRankRow> rows;
  std::vector<const float*> x_rows;
};

Case random_case(Random& r) {
  Case c;
  const int32_t formats[] = {LING_I3, LING_I4, LING_I8, LING_BF16, LING_FP8};
  const int32_t format = r.pick(formats);
  const int32_t group = format == LING_BF16 ? 2 : format == LING_FP8 ? 128 : 32;
  const int64_t rows = kTile * r.between(1, 6), cols = kTile * r.between(1, 20);
  c.w = random_matrix(r, format, group, rows, cols);
  c.m = r.below(4) ? r.between(1, 9) : r.between(10, 150);
  c.rank = r.below(3) ? r.between(1, 17) : r.between(1, ling::kMaxRank);
  c.values = r.below(2) ? 2 * c.rank : c.rank;
  c.a = Array<uint16_t>(c.values * cols, 1), c.b = Array<uint16_t>(rows * c.rank, 1);
  for (Array<uint16_t>* part : {&c.a, &c.b})
    for (uint16_t& v : *part) v = to_bf16(0.1f * r.normal());
  c.matrix = {c.rank, {r.uniform(), r.uniform()}, c.a.data(), c.b.data()};
  c.x = Array<float>(c.m * cols, 1), c.t = Array<float>(c.m * c.values, 1);
  for (float& v : c.x) v = r.normal();
  for (int64_t i = 0; i < c.m; ++i) {
    c.rows.push_back({c.t.data() + i * c.values, c.b.data(), c.rank});
    c.x_rows.push_back(c.x.data() + i * cols);
  }
  return c;
}

// The rows of A in two parts, as two tasks have them.
void check_values(Random& r, const ling::IsaKernels& kernels, Case& c) {
  const int64_t middle = r.between(0, c.values), cols = c.w.m.cols;
  kernels.low_rank({&c.matrix, cols, 0, middle, c.m, c.x_rows.data(), c.rows.data()});
  kernels.low_rank({&c.matrix, cols, middle, c.values, c.m, c.x_rows.data(), c.rows.data()});
  for (int64_t i = 0; i < c.m; ++i)
    for (int64_t j = 0; j < c.values; ++j) {
      const float scale = c.matrix.scales[j >= c.rank];
      const float want = value_of(c.a.data() + j * cols, c.x_rows[size_t(i)], cols, scale);
      CHECK(c.rows[size_t(i)].t[j] == want, "row %d of %d, value %d of rank %d: %g, not %g", int(i),
            int(c.m), int(j), int(c.rank), c.rows[size_t(i)].t[j], want);
    }
}

Array<float> product(const ling::IsaKernels& kernels, const Case& c, const LowRankRow* low_rank) {
  ling::Activations in;
  in.reserve(c.w.m, c.m);
  Array<float> y(c.m * c.w.m.rows, 1);
  std::vector<float*> y_rows;
  for (int64_t i = 0; i < c.m; ++i) {
    in.put(kernels, c.w.m, i, c.x_rows[size_t(i)]);
    y_rows.push_back(y.data() + i * c.w.m.rows);
  }
  std::vector<uint8_t> scratch(size_t(ling::scratch_bytes(c.w.m)) + 64);
  uint8_t* aligned = scratch.data() + (64 - uintptr_t(scratch.data()) % 64) % 64;
  kernels.product({c.w.m, c.m, in.rows.data(), y_rows.data(), nullptr, nullptr,
                   ling::Epilogue::kStore, nullptr, low_rank},
                  0, ling::tiles(c.w.m), aligned);
  return y;
}

// What is added to a row with an adapter; one without keeps its bits.
void check_added(Random& r, const ling::IsaKernels& kernels, Case& c) {
  const Array<float> plain = product(kernels, c, nullptr);
  for (LowRankRow& row : c.rows)
    if (!r.below(4)) row = {nullptr, nullptr, 0};
  const Array<float> got = product(kernels, c, c.rows.data());
  for (int64_t i = 0; i < c.m; ++i)
    for (int64_t n = 0; n < c.w.m.rows; ++n) {
      const LowRankRow& row = c.rows[size_t(i)];
      const int64_t at = i * c.w.m.rows + n;
      const float add = row.b ? added_of(row.b, row.t, row.rank, n) : 0;
      const float want = row.b ? plain.data()[at] + add : plain.data()[at];
      CHECK(got.data()[at] == want, "format %d, row %d of %d, column %d, rank %d: %g, not %g",
            c.w.m.format, int(i), int(c.m), int(n), int(row.rank), got.data()[at], want);
    }
}

}  // namespace

void fuzz_low_rank(uint64_t seed, int64_t rounds) {
  Random r = {seed};
  const ling::IsaKernels* kernels = ling::isa_kernels();
  for (int64_t i = 0; i < rounds; ++i) {
    Case c = random_case(r);
    check_values(r, *kernels, c);
    check_added(r, *kernels, c);
  }
}
